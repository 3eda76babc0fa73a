//! Element types: how the values of a tensor are stored and read back.

use clap::ValueEnum;
use half::{bf16, f16};
use serde::Serialize;
use wgpu_batch_norm::ElementType;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Element {
    #[default]
    F32,
    F16,
    Bf16,
}

impl Element {
    pub const fn element_type(self) -> ElementType {
        match self {
            Self::F32 => ElementType::F32,
            Self::F16 => ElementType::F16,
            Self::Bf16 => ElementType::Bf16,
        }
    }

    /// Bytes of one element.
    pub const fn size(self) -> u64 {
        self.element_type().size()
    }

    /// The largest relative error of one rounding.
    pub fn roundoff(self) -> f64 {
        match self {
            Self::F32 => f64::from(f32::EPSILON) / 2.0,
            Self::F16 => f16::EPSILON.to_f64() / 2.0,
            Self::Bf16 => bf16::EPSILON.to_f64() / 2.0,
        }
    }

    /// What storing leaves of a value.
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => f16::from_f32(value).to_f32(),
            Self::Bf16 => bf16::from_f32(value).to_f32(),
        }
    }

    /// A tensor as it is stored, in whole words.
    pub fn encode(self, values: impl Iterator<Item = f32>) -> Vec<u32> {
        let pack = |values: Vec<u16>| {
            let word = |pair: &[u16]| u32::from(pair[0]) | u32::from(pair.get(1).copied().unwrap_or(0)) << 16;
            values.chunks(2).map(word).collect()
        };
        match self {
            Self::F32 => values.map(f32::to_bits).collect(),
            Self::F16 => pack(values.map(|value| f16::from_f32(value).to_bits()).collect()),
            Self::Bf16 => pack(values.map(|value| bf16::from_f32(value).to_bits()).collect()),
        }
    }

    /// The element at `index` of a tensor, out of the word that holds it.
    pub fn decode(self, index: u64, word: u32) -> f32 {
        let half = (word >> (16 * (index % 2))) as u16;
        match self {
            Self::F32 => f32::from_bits(word),
            Self::F16 => f16::from_bits(half).to_f32(),
            Self::Bf16 => bf16::from_bits(half).to_f32(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_comes_back_rounded_once() {
        let values = [1.0, -0.1, 0.3];
        for (element, words) in [(Element::F32, 3), (Element::F16, 2), (Element::Bf16, 2)] {
            let encoded = element.encode(values.into_iter());
            assert_eq!(encoded.len(), words);
            for (index, value) in values.into_iter().enumerate() {
                let word = encoded[index * element.size() as usize / 4];
                let stored = element.decode(index as u64, word);
                assert_eq!(stored, element.round(value));
                assert!(f64::from(stored - value).abs() <= element.roundoff() * f64::from(value).abs());
            }
        }
    }
}
