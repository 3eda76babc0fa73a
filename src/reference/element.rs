//! Number types that the reference reads and writes.

/// A storage type: read exactly into f64, written by rounding once.
pub trait Element: Copy {
    /// The type of per-channel vectors beside tensors of this type: never narrower than f32.
    type Parameter: Element;

    /// The value in f64, exact.
    fn to_f64(self) -> f64;
    /// The nearest value of this type.
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
