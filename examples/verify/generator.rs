//! Inputs that a case does not store: integers from a hash of the element index, scaled by a power of two.

use serde_json::Value;
use wgpu_batch_norm::Problem;

/// More elements than any device binds; a manifest that asks for more is refused before memory is.
const MAX_ELEMENTS: u64 = 1 << 30;

/// The description of one generated tensor.
#[derive(Debug)]
pub struct Generator {
    seed: u32,
    bits: u32,
    offset: PerChannel,
    shift: PerChannel,
}

/// A value for all channels, or one for each.
#[derive(Debug)]
enum PerChannel {
    Same(i64),
    Each(Vec<i64>),
}

impl PerChannel {
    /// Reads `channel_NAME`, else `NAME`, else 0.
    fn parse(fields: &Value, name: &str) -> Result<Self, String> {
        let each = &fields[format!("channel_{name}")];
        if each.is_null() {
            return match &fields[name] {
                Value::Null => Ok(Self::Same(0)),
                value => value.as_i64().map(Self::Same).ok_or(format!("generator: `{name}` is {value}")),
            };
        }
        let values = each.as_array().and_then(|values| values.iter().map(Value::as_i64).collect());
        values.map(Self::Each).ok_or(format!("generator: `channel_{name}` is {each}"))
    }

    fn get(&self, channel: usize) -> i64 {
        match self {
            Self::Same(value) => *value,
            Self::Each(values) => values[channel],
        }
    }

    fn check(&self, channels: usize, largest: i64) -> Result<(), String> {
        let (count, values) = match self {
            Self::Same(value) => (channels, std::slice::from_ref(value)),
            Self::Each(values) => (values.len(), values.as_slice()),
        };
        if count != channels {
            return Err(format!("generator: {count} values for {channels} channels"));
        }
        match values.iter().find(|value| value.unsigned_abs() > largest.unsigned_abs()) {
            Some(value) => Err(format!("generator: {value} is outside -{largest} to {largest}")),
            None => Ok(()),
        }
    }
}

impl Generator {
    pub fn parse(fields: &Value) -> Result<Self, String> {
        let integer = |name: &str| {
            let value = &fields[name];
            value.as_u64().and_then(|value| u32::try_from(value).ok()).ok_or(format!("generator: `{name}` is {value}"))
        };
        let bits = integer("bits")?;
        if !(1..=32).contains(&bits) {
            return Err(format!("generator: `bits` is {bits}"));
        }
        let (offset, shift) = (PerChannel::parse(fields, "offset")?, PerChannel::parse(fields, "shift")?);
        Ok(Self { seed: integer("seed")?, bits, offset, shift })
    }

    /// The values in storage order and the sum of their integers, channel by channel.
    pub fn values(&self, problem: Problem) -> Result<(Vec<f32>, Vec<i64>), String> {
        let (channels, inner) = (problem.channels as usize, problem.inner.max(1));
        if problem.elements() > MAX_ELEMENTS {
            return Err(format!("generator: {} elements are too many", problem.elements()));
        }
        self.offset.check(channels, 1 << 32)?;
        self.shift.check(channels, 126)?;
        let mut sums = vec![0_i64; channels];
        let mut values = Vec::with_capacity(problem.elements() as usize);
        for index in 0..problem.elements() {
            let channel = (index / inner % u64::from(problem.channels)) as usize;
            let integer = self.integer(index as u32) + self.offset.get(channel);
            sums[channel] += integer;
            // Exact: the integers have at most 25 bits and the scale is a power of two.
            values.push((integer as f64 * 2_f64.powi(-(self.shift.get(channel) as i32))) as f32);
        }
        Ok((values, sums))
    }

    /// The top `bits` bits of the hash, centred on 0.
    fn integer(&self, index: u32) -> i64 {
        i64::from(hash(index, self.seed) >> (32 - self.bits)) - (1 << (self.bits - 1))
    }
}

/// lowbias32, an invertible 32-bit mixer, of the index moved by the seed.
fn hash(index: u32, seed: u32) -> u32 {
    let mut hash = index.wrapping_add(seed.wrapping_mul(0x9E37_79B9));
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x7FEB_352D);
    hash ^= hash >> 15;
    hash = hash.wrapping_mul(0x846C_A68B);
    hash ^ (hash >> 16)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const PROBLEM: Problem = Problem { outer: 2, channels: 2, inner: 3 };

    #[test]
    fn the_hash_mixes_index_and_seed() {
        assert_eq!(hash(0, 0), 0);
        assert_eq!(hash(1, 0), 0x6889_90C0);
        assert_eq!(hash(u32::MAX, 7), 0x565A_7FF7);
    }

    #[test]
    fn integers_are_centred_scaled_and_summed_by_channel() {
        let generator = Generator::parse(&json!({"seed": 3, "bits": 8, "offset": 0, "shift": 7})).unwrap();
        let (values, sums) = generator.values(PROBLEM).unwrap();
        assert!(values.iter().all(|value| (-1.0..1.0).contains(value) && (value * 128.0).fract() == 0.0));
        let total = |indices: [usize; 6]| indices.iter().map(|&index| values[index] * 128.0).sum::<f32>() as i64;
        assert_eq!(sums, [total([0, 1, 2, 6, 7, 8]), total([3, 4, 5, 9, 10, 11])]);
    }

    #[test]
    fn channel_offsets_and_shifts_replace_the_common_ones() {
        let fields = json!({"seed": 3, "bits": 1, "channel_offset": [1, 100], "channel_shift": [0, 1]});
        let (values, _) = Generator::parse(&fields).unwrap().values(PROBLEM).unwrap();
        assert!(values[..3].iter().all(|&value| value == 0.0 || value == 1.0));
        assert!(values[3..6].iter().all(|&value| value == 49.5 || value == 50.0));
    }

    #[test]
    fn fields_that_make_no_sense_are_errors() {
        assert!(Generator::parse(&json!({"seed": 3, "bits": 0})).is_err());
        assert!(Generator::parse(&json!({"seed": 3, "bits": 33})).is_err());
        assert!(Generator::parse(&json!({"seed": "3", "bits": 8})).is_err());
        assert!(Generator::parse(&json!({"seed": 3, "bits": 8, "channel_shift": [1, "x"]})).is_err());
        let short = Generator::parse(&json!({"seed": 3, "bits": 8, "channel_offset": [1]})).unwrap();
        assert!(short.values(PROBLEM).is_err());
        let plain = Generator::parse(&json!({"seed": 3, "bits": 8})).unwrap();
        assert!(plain.values(Problem { outer: 1 << 40, channels: 1, inner: 1 }).is_err());
    }
}
