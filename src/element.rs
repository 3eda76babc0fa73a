//! Element types of tensors.

/// The storage type of tensors: x, y, the residual and their gradients.
///
/// Per-channel vectors, saved statistics and all arithmetic are `f32` whatever the element type; a result is rounded to it
/// once, to nearest, ties to even. 16-bit tensors are read and written as packed pairs, so they need no device feature
/// (`SHADER_F16` in particular).
///
/// Slices of tensors with an odd number of 16-bit elements are rounded up to 4 bytes; the two bytes past the last element
/// are written as 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ElementType {
    /// IEEE 754 binary32.
    #[default]
    F32,
    /// IEEE 754 binary16: 11 significant bits, up to 65504.
    F16,
    /// bfloat16: 8 significant bits, the range of `F32`.
    Bf16,
}

impl ElementType {
    /// Every element type.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Bf16];

    /// Bytes of one element.
    #[must_use]
    pub const fn size(self) -> u64 {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::Bf16 => 2,
        }
    }

    /// Bytes of a tensor with `elements` elements, a multiple of 4.
    pub(crate) const fn tensor_size(self, elements: u64) -> u64 {
        elements.saturating_mul(self.size()).saturating_add(3) / 4 * 4
    }
}

impl std::fmt::Display for ElementType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
        })
    }
}
