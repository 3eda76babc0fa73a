//! Element types as bits: what a value becomes when it is stored, and how a device buffer holds a tensor.
//!
//! A 16-bit tensor fills 32-bit words two by two, the first element in the low half; half a word may be left over.

use half::{bf16, f16};
use wgpu_batch_norm::ElementType;
use wgpu_batch_norm::reference::Element;

/// The value after its one rounding to the element type.
pub fn round(element: ElementType, value: f64) -> f64 {
    fn as_stored<T: Element>(value: f64) -> f64 {
        T::from_f64(value).to_f64()
    }
    match element {
        ElementType::F16 => as_stored::<f16>(value),
        ElementType::Bf16 => as_stored::<bf16>(value),
        _ => as_stored::<f32>(value),
    }
}

/// The value of 16 bits.
pub fn widen(element: ElementType, bits: u16) -> f32 {
    if element == ElementType::F16 { f16::from_bits(bits).to_f32() } else { bf16::from_bits(bits).to_f32() }
}

/// The bits of everything that a step must write, before it runs: a NaN that arithmetic does not give, as it is
/// signalling and its payload is arbitrary. In words of two elements, each half is one.
pub const fn poison(element: ElementType) -> u32 {
    match element {
        ElementType::F16 => 0x7DA5_7DA5,
        ElementType::Bf16 => 0x7FA5_7FA5,
        _ => 0x7FA5_C3E1,
    }
}

/// Elements in a word.
const fn per_word(element: ElementType) -> usize {
    size_of::<u32>() / element.size() as usize
}

/// The words that hold `count` elements.
pub const fn words(element: ElementType, count: usize) -> usize {
    count.div_ceil(per_word(element))
}

/// The words of a tensor; what is left over of the last one is poison, since nothing may depend on it.
pub fn pack(element: ElementType, values: &[f32]) -> Vec<u32> {
    let bits = |value: f32| match element {
        ElementType::F16 => f16::from_f32(value).to_bits(),
        _ => bf16::from_f32(value).to_bits(),
    };
    if per_word(element) == 1 {
        return values.iter().map(|value| value.to_bits()).collect();
    }
    let pair = |pair: &[f32]| {
        let high = pair.get(1).map_or(poison(element) >> 16, |&value| u32::from(bits(value)));
        high << 16 | u32::from(bits(pair[0]))
    };
    values.chunks(2).map(pair).collect()
}

/// A tensor as a device left it.
#[derive(Debug)]
pub struct Unpacked {
    pub values: Vec<f32>,
    /// How many elements still hold the poison.
    pub unwritten: usize,
    /// Whether there is half a word past the last element that is not 0.
    pub stray: bool,
}

/// The first `count` elements of words.
pub fn unpack(element: ElementType, words: &[u32], count: usize) -> Unpacked {
    let unwritten = |bits: &[u32], poison: u32| bits.iter().filter(|&&bits| bits == poison).count();
    if per_word(element) == 1 {
        let values = words.iter().take(count).map(|&bits| f32::from_bits(bits)).collect();
        return Unpacked { values, unwritten: unwritten(words, poison(element)), stray: false };
    }
    let mut halves: Vec<u32> = words.iter().flat_map(|word| [word & 0xFFFF, word >> 16]).collect();
    let stray = halves.drain(count.min(halves.len())..).any(|bits| bits != 0);
    let values = halves.iter().map(|&bits| widen(element, bits as u16)).collect();
    Unpacked { values, unwritten: unwritten(&halves, poison(element) & 0xFFFF), stray }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_rounded_once() {
        assert_eq!(round(ElementType::F32, 0.1), f64::from(0.1_f32));
        // Beside the tie between 1 and 1 + 2⁻¹⁰ by less than f32 can tell.
        assert_eq!(round(ElementType::F16, 1.0 + 2_f64.powi(-11) + 2_f64.powi(-40)), 1.0 + 2_f64.powi(-10));
        assert_eq!(round(ElementType::Bf16, 1.0 + 2_f64.powi(-8)), 1.0);
        assert_eq!(round(ElementType::F16, -65520.0), f64::NEG_INFINITY);
    }

    #[test]
    fn tensors_survive_packing() {
        let values = [1.0, -0.5, f32::INFINITY, -0.0, 3.0];
        for element in ElementType::ALL {
            for count in 0..=values.len() {
                let packed = pack(element, &values[..count]);
                assert_eq!(packed.len(), words(element, count));
                let Unpacked { values: unpacked, unwritten, stray } = unpack(element, &packed, count);
                assert_eq!(unpacked, &values[..count], "{element}");
                assert_eq!((unwritten, stray), (0, element != ElementType::F32 && count % 2 == 1));
            }
        }
        assert_eq!(pack(ElementType::F16, &[1.0, 2.0]), [0x4000_3C00]);
        assert_eq!(pack(ElementType::Bf16, &[1.0, 2.0]), [0x4000_3F80]);
    }

    #[test]
    fn poison_is_counted_by_element_and_is_a_nan() {
        for element in ElementType::ALL {
            let words = vec![poison(element); words(element, 3)];
            let Unpacked { values, unwritten, stray } = unpack(element, &words, 3);
            assert!(values.iter().all(|value| value.is_nan()));
            assert_eq!((unwritten, stray), (3, element != ElementType::F32));
        }
    }
}
