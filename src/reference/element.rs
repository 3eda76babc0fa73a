//! Number types that the reference reads and writes.

/// A storage type: read exactly into f64, written by rounding once, to nearest, ties to even.
///
/// Implemented for `f32` and `f64`, and with the crate feature `half` for `half::f16` and `half::bf16`.
pub trait Element: Copy {
    /// The type of per-channel vectors beside tensors of this type: never narrower than f32.
    type Parameter: Element;

    /// The value in f64, exact.
    fn to_f64(self) -> f64;
    /// The nearest value of this type; infinite past its range, and a NaN for a NaN.
    fn from_f64(value: f64) -> Self;
}

impl Element for f32 {
    type Parameter = Self;

    fn to_f64(self) -> f64 {
        f64::from(self)
    }

    #[expect(clippy::cast_possible_truncation, reason = "the one rounding to the storage type")]
    fn from_f64(value: f64) -> Self {
        value as Self
    }
}

impl Element for f64 {
    type Parameter = Self;

    fn to_f64(self) -> f64 {
        self
    }

    fn from_f64(value: f64) -> Self {
        value
    }
}

#[cfg(feature = "half")]
mod sixteen_bits {
    use half::{bf16, f16};

    use super::Element;

    impl Element for f16 {
        type Parameter = f32;

        fn to_f64(self) -> f64 {
            self.to_f64()
        }

        fn from_f64(value: f64) -> Self {
            Self::from_f32(to_odd(value))
        }
    }

    impl Element for bf16 {
        type Parameter = f32;

        fn to_f64(self) -> f64 {
            self.to_f64()
        }

        fn from_f64(value: f64) -> Self {
            Self::from_f32(to_odd(value))
        }
    }

    /// `value` rounded to odd: towards zero, and the last bit set if anything was lost.
    ///
    /// Where the nearest f32 is a tie between two values of 16 bits, `value` may lie beside the tie, and would be
    /// rounded to the wrong side. An f32 rounded to odd is a tie only where `value` is, so that the second rounding is
    /// the only one that counts (Boldo and Melquiond, *When double rounding is odd*, 2005). `half`'s own conversions
    /// from f64 go by the nearest f32, or drop low bits.
    fn to_odd(value: f64) -> f32 {
        let nearest = f32::from_f64(value);
        let back = f64::from(nearest);
        if value.is_nan() || back == value {
            return nearest;
        }
        let away = u32::from(back.abs() > value.abs());
        f32::from_bits((nearest.to_bits() - away) | 1)
    }
}
