//! Values that a scenario file writes as texts: lengths of time, shares, latencies, names.

use super::faults::{Group, When};
use crate::disk::DiskFate;
use base::Ratio;
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;
use std::time::Duration;

/// A length of time, written as a whole or decimal number and `ns`, `us`, `ms`, `s`, `m` or `h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// A year. Sums of a few of them are still times that the simulator can count.
    const MAX: Duration = Duration::from_secs(365 * 24 * 3600);
}

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Span, String> {
        let bad =
            || format!("\"{text}\" is no length of time: expected one such as \"20ms\", \"1.5s\"");
        let split = text.find(|c: char| c.is_ascii_alphabetic()).ok_or_else(bad)?;
        let (number, unit) = text.split_at(split);
        let unit: u128 = match unit {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return Err(bad()),
        };
        let (whole, decimals) = number.split_once('.').unwrap_or((number, ""));
        let digits = |s: &str, most| s.len() <= most && s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole, 19) || !digits(decimals, 9) {
            return Err(bad());
        }
        let parse = |s: &str| s.parse::<u128>().map_err(|_| bad());
        let mut nanos = parse(whole)? * unit;
        if !decimals.is_empty() {
            nanos += parse(decimals)? * unit / 10u128.pow(decimals.len() as u32);
        }
        let span = u64::try_from(nanos).map(Duration::from_nanos).ok();
        let too_long = || format!("\"{text}\" is longer than a year, 8760h");
        span.filter(|span| *span <= Self::MAX).map(Span).ok_or_else(too_long)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        for (unit, size) in [("s", 1_000_000_000), ("ms", 1_000_000), ("us", 1_000)] {
            if nanos >= size && nanos.is_multiple_of(size) {
                return write!(f, "{}{unit}", nanos / size);
            }
        }
        write!(f, "{nanos}ns")
    }
}

/// From the shortest to the longest, both included: `"1ms..10ms"`, or one length for both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Between(pub Duration, pub Duration);

impl FromStr for Between {
    type Err = String;

    fn from_str(text: &str) -> Result<Between, String> {
        let (low, high) = text.split_once("..").unwrap_or((text, text));
        let (Span(low), Span(high)) = (low.parse()?, high.parse()?);
        if low > high {
            return Err(format!("\"{text}\" runs backwards: the shorter time comes first"));
        }
        Ok(Between(low, high))
    }
}

impl fmt::Display for Between {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", Span(self.0), Span(self.1))
    }
}

/// How long messages travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// As long as between the nodes' regions, and up to a tenth more.
    Regions,
    /// Anything in this range.
    Range(Between),
}

impl FromStr for Latency {
    type Err = String;

    fn from_str(text: &str) -> Result<Latency, String> {
        if text == "regions" {
            return Ok(Latency::Regions);
        }
        text.parse().map(Latency::Range).map_err(|error: String| format!("{error}, or \"regions\""))
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Regions => f.write_str("regions"),
            Self::Range(range) => range.fmt(f),
        }
    }
}

/// A ratio as it stands in a file: `"1%"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share(pub Ratio);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Share, String> {
        text.parse()
            .map(Share)
            .map_err(|error: base::ParseRatioError| format!("\"{text}\": {error}"))
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Takes a text only, and says what is expected instead of anything else.
struct Text<T>(&'static str, PhantomData<T>);

impl<T: FromStr<Err = String>> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }
}

macro_rules! as_text {
    ($($type:ty: $expected:literal),*) => {$(
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(Text($expected, PhantomData))
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}

as_text!(
    Span: "a length of time such as \"20ms\"",
    Between: "lengths of time such as \"1ms..10ms\"",
    Latency: "lengths of time such as \"1ms..10ms\", or \"regions\"",
    Share: "a share such as \"1%\"",
    When: "a trigger such as \"append(tx_commit_start)#3@n0\"",
    DiskFate: "\"lost\", \"kept\", \"cut@137\" or \"torn@101\"",
    Group: "nodes such as \"n0\", \"n3,n4\", \"region:2\" or \"rest\""
);

/// A failure file is called after its scenario.
pub(super) fn file_name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
        return Err(de::Error::custom(format!(
            "{name:?} is no name: expected up to 100 letters, digits, `-`, `_` and `.`, because \
             failure files are called after it"
        )));
    }
    Ok(name)
}
