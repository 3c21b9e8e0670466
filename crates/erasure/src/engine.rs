//! The library's engine, with a shorter way to what decoding needs of the places of missing shards.

use reed_solomon_simd::engine::tables::get_exp_log;
use reed_solomon_simd::engine::{
    DefaultEngine, Engine, GF_MODULUS, GF_ORDER, GfElement, ShardsRefMut,
};

/// So many table look-ups take no longer than two transforms over the whole field, by far.
const LOOK_UPS_MAX: usize = 1 << 16;

/// The library evaluates the error locator, the polynomial whose roots are the places of missing shards, by
/// two Walsh-Hadamard transforms over all 65,536 places, however few of them there are. That took
/// longer than all else about a shard of some kilobytes. Of few shards each place is looked at instead.
#[derive(Default)]
pub(crate) struct Direct(DefaultEngine);

impl Engine for Direct {
    fn fft(
        &self,
        data: &mut ShardsRefMut<'_>,
        pos: usize,
        size: usize,
        truncated_size: usize,
        skew_delta: usize,
    ) {
        self.0.fft(data, pos, size, truncated_size, skew_delta);
    }

    fn ifft(
        &self,
        data: &mut ShardsRefMut<'_>,
        pos: usize,
        size: usize,
        truncated_size: usize,
        skew_delta: usize,
    ) {
        self.0.ifft(data, pos, size, truncated_size, skew_delta);
    }

    fn mul(&self, x: &mut [[u8; 64]], log_m: GfElement) {
        self.0.mul(x, log_m);
    }

    /// In: 1 for each place that is missing, 0 for the others. Out, at each place: the logarithm of the product
    /// of its differences from all other places that are missing.
    fn eval_poly(erasures: &mut [GfElement; GF_ORDER], truncated_size: usize) {
        if !evaluate(erasures, truncated_size) {
            DefaultEngine::eval_poly(erasures, truncated_size);
        }
    }
}

/// False, and nothing is changed, if that would take too long.
///
/// All places behind those of the codeword are alike: there, or missing. If they are missing, the sum is taken
/// over those that are there, and negated: the logarithms of all differences that there are add up to
/// nothing (0 + 1 + … + 65,534 is a multiple of 65,535). What is behind the last place that is there, nobody
/// reads then.
fn evaluate(erasures: &mut [GfElement; GF_ORDER], truncated_size: usize) -> bool {
    let rest = erasures[GF_ORDER - 1];
    let last = erasures.iter().rposition(|it| *it != rest);
    let end = last.map_or(0, |last| last + 1);
    let asked = if rest == 0 { truncated_size.max(end) } else { end };
    let unlike = || erasures[..end].iter().filter(|it| **it != rest);
    if unlike().count() * asked > LOOK_UPS_MAX {
        return false;
    }
    let places = (0..end).zip(&erasures[..end]).filter(|(_, it)| **it != rest);
    let places: Vec<usize> = places.map(|(place, _)| place).collect();
    let log = &get_exp_log().log;
    for (place, value) in (0..asked).zip(erasures.iter_mut()) {
        let others = places.iter().filter(|other| **other != place);
        let sum: u64 = others.map(|other| u64::from(log[place ^ other])).sum();
        let sum = (sum % u64::from(GF_MODULUS)) as GfElement;
        *value = if rest == 0 { sum } else { GF_MODULUS - sum };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What both ways find at the places below `asked`; 65,535 and 0 are the same.
    fn both(missing: &dyn Fn(usize) -> bool, truncated: usize, asked: usize) -> [Vec<u16>; 2] {
        let mut direct = [0; GF_ORDER];
        for (place, it) in direct.iter_mut().enumerate() {
            *it = u16::from(missing(place));
        }
        let mut whole = direct;
        assert!(evaluate(&mut direct, truncated));
        DefaultEngine::eval_poly(&mut whole, truncated);
        [direct, whole].map(|all| all[..asked].iter().map(|it| it % GF_MODULUS).collect())
    }

    #[test]
    fn both_ways_find_the_same() {
        for seed in 0..40u64 {
            let mut stream = base::prng::Key::root(seed).stream();
            let total = stream.between(2, 60) as usize;
            let places: Vec<bool> = (0..total).map(|_| stream.below(3) == 0).collect();
            // Behind the codeword everything is there …
            let [direct, whole] =
                both(&|at| places.get(at).copied().unwrap_or(false), total, total);
            assert_eq!(direct, whole, "{places:?}");
            // … or everything is missing: up to the last one that is there.
            let end = places.iter().rposition(|missing| !missing).map_or(0, |last| last + 1);
            let [direct, whole] =
                both(&|at| places.get(at).copied().unwrap_or(true), GF_ORDER, end);
            assert_eq!(direct, whole, "{places:?}");
        }
    }

    #[test]
    fn many_places_are_left_to_the_library() {
        let mut erasures = [0; GF_ORDER];
        erasures[..2_000].fill(1);
        let before = erasures;
        assert!(!evaluate(&mut erasures, 4_000));
        assert!(erasures == before);
    }
}
