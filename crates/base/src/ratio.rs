use crate::prng::Draw;
use std::fmt;
use std::str::FromStr;

/// A probability as parts of a million: exact, and the same on every machine (no floating point).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ratio(u32);

impl Ratio {
    /// Never.
    pub const ZERO: Ratio = Ratio(0);
    /// Always.
    pub const ONE: Ratio = Ratio(Self::PARTS);
    const PARTS: u32 = 1_000_000;

    /// `parts` of a million.
    ///
    /// # Panics
    /// Over a million.
    #[must_use]
    pub const fn per_million(parts: u32) -> Ratio {
        assert!(parts <= Self::PARTS, "a ratio is at most one");
        Ratio(parts)
    }

    /// `parts` of a hundred.
    ///
    /// # Panics
    /// Over a hundred.
    #[must_use]
    pub const fn percent(parts: u32) -> Ratio {
        assert!(parts <= 100, "a ratio is at most one");
        Ratio(parts * 10_000)
    }

    /// How many parts of a million it is.
    #[must_use]
    pub const fn parts_per_million(self) -> u32 {
        self.0
    }

    /// Whether this draw falls within the ratio.
    #[must_use]
    pub fn holds(self, draw: &Draw) -> bool {
        draw.below(u64::from(Self::PARTS)) < u64::from(self.0)
    }
}

/// As per cent.
impl fmt::Display for Ratio {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 10_000, self.0 % 10_000);
        if rest == 0 {
            write!(f, "{whole}%")
        } else {
            write!(f, "{whole}.{}%", format!("{rest:04}").trim_end_matches('0'))
        }
    }
}

/// The text was not a ratio such as `1%`, `0.25%` or `0%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseRatioError;

impl fmt::Display for ParseRatioError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "expected per cent from 0% to 100%, with at most four decimals, such as \"0.25%\"",
        )
    }
}

impl std::error::Error for ParseRatioError {}

impl FromStr for Ratio {
    type Err = ParseRatioError;

    fn from_str(text: &str) -> Result<Ratio, ParseRatioError> {
        let number = text.trim().strip_suffix('%').ok_or(ParseRatioError)?.trim_end();
        let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
        let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole) || !digits(decimals) || whole.len() > 3 || decimals.len() > 4 {
            return Err(ParseRatioError);
        }
        let whole: u32 = whole.parse().map_err(|_| ParseRatioError)?;
        let decimals: u32 = format!("{decimals:0<4}").parse().map_err(|_| ParseRatioError)?;
        let parts = whole * 10_000 + decimals;
        if parts > Self::PARTS { Err(ParseRatioError) } else { Ok(Ratio(parts)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_parse_and_print() {
        for (text, parts) in [("0%", 0), ("1%", 10_000), ("0.25%", 2_500), ("100%", 1_000_000)] {
            let ratio: Ratio = text.parse().unwrap();
            assert_eq!(ratio.parts_per_million(), parts);
            assert_eq!(ratio.to_string(), text);
        }
        for text in ["1", "-1%", "101%", "100.0001%", "1.%", ".5%", "1e2%", "0.00001%", "%"] {
            assert!(text.parse::<Ratio>().is_err(), "{text}");
        }
    }
}
