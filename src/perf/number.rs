//! Numbers for people: conversions that are exact enough for a report, and how they are printed.

/// `value` as a float; exact up to 2^53, which no count of a run reaches.
#[expect(
    clippy::cast_precision_loss,
    reason = "counts of a run stay below 2^53"
)]
pub(super) fn float(value: u64) -> f64 {
    value as f64
}

/// `value` rounded to a whole number; negative ones and what is no number become 0.
#[expect(
    clippy::cast_sign_loss,
    reason = "`as` saturates, negative values become 0"
)]
pub(super) fn whole(value: f64) -> u64 {
    value.round() as u64
}

/// `numerator / denominator`, 0 when there is nothing to divide by.
pub(super) fn ratio(numerator: f64, denominator: f64) -> f64 {
    if denominator > 0.0 {
        numerator / denominator
    } else {
        0.0
    }
}

/// `value` rounded to `places` decimal places, so that a report does not claim more.
pub(super) fn rounded(value: f64, places: i32) -> f64 {
    let factor = 10_f64.powi(places);
    (value * factor).round() / factor
}

/// Digits in groups of three: `1,234,567`.
pub(super) fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.char_indices() {
        if index != 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Octets with a unit: `12.3 MB` (powers of 1000).
pub(super) fn octets(value: u64) -> String {
    let (factor, unit) = match value {
        0..1_000 => return format!("{value} B"),
        1_000..1_000_000 => (1e3, "kB"),
        1_000_000..1_000_000_000 => (1e6, "MB"),
        _ => (1e9, "GB"),
    };
    format!("{:.1} {unit}", float(value) / factor)
}

/// A deterministic stream of pseudo-random numbers (xorshift64*): which keys a run publishes to
/// depends on its seed alone.
#[derive(Clone, Debug)]
pub(super) struct Random(u64);

impl Random {
    /// The stream of `seed`.
    pub(super) fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`, which must not be 0.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped_in_threes() {
        for (value, expected) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (12_345, "12,345"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(value), expected);
        }
    }

    #[test]
    fn octets_take_the_unit_that_fits() {
        assert_eq!(octets(999), "999 B");
        assert_eq!(octets(1_500), "1.5 kB");
        assert_eq!(octets(2_377_000_000), "2.4 GB");
    }

    #[test]
    fn nothing_divided_by_nothing_is_nothing() {
        assert_eq!(whole(ratio(1.0, 0.0)), 0);
        assert_eq!(whole(-3.0), 0);
        assert_eq!(whole(2.6), 3);
    }

    #[test]
    fn a_seed_gives_the_same_numbers_again_and_they_reach_the_whole_range() {
        let draw = |seed| {
            let mut random = Random::new(seed);
            (0..1_000).map(|_| random.below(10)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        for digit in 0..10 {
            let times = draw(7).iter().filter(|&&number| number == digit).count();
            assert!((50..200).contains(&times), "{digit}: {times}");
        }
    }
}
