//! The comparison rule: `|got - truth| <= atol[c] + rtol·|truth|` for every element of channel c.
//!
//! Where results may be non-finite, exceed their type or be subnormal follows from the truth itself, element by element, so
//! the manifest's `nonfinite_channels`, `truth_exceeds_f32` and `truth_has_f32_subnormals` are not needed: a non-finite
//! result is wrong wherever the truth is finite in the result's type, in whatever channel.

use serde::{Serialize, Serializer};
use wgpu_batch_norm::{ElementType, Problem};

use crate::storage;

/// What an expected tensor holds, which decides how it is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One value for each element of the tensor.
    Elements,
    /// One value for each channel or instance.
    Channels,
    /// The elements at the sample indices.
    Samples,
    /// The sum over each channel.
    ChannelSums,
    /// The sum of squares over each channel.
    ChannelSquares,
}

/// An expected tensor with its tolerances.
#[derive(Debug)]
pub struct Truth {
    /// Its name in the case.
    pub name: String,
    /// The produced tensor that it describes.
    pub tensor: &'static str,
    pub kind: Kind,
    /// What the produced tensor is stored as.
    pub element: ElementType,
    pub values: Vec<f64>,
    /// Absolute tolerance of each channel, or of each value of a vector.
    pub atol: Vec<f64>,
    /// The stricter absolute tolerance of each channel, for information.
    pub tight: Option<Vec<f64>>,
    pub rtol: f64,
}

/// Which non-finite values count as equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NonFinite {
    /// NaN equals NaN and an infinity equals the same infinity.
    SameKind,
    /// Any non-finite value stands for any other. WGSL lets an implementation assume that NaN and infinities do not
    /// occur, so which of them comes out is not portable.
    AnyKind,
}

/// A number that may be infinite or NaN, which JSON writes as text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Number(pub f64);

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_finite() { serializer.serialize_f64(self.0) } else { serializer.collect_str(&self.0) }
    }
}

/// How far a produced tensor is from the truth.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    pub tensor: String,
    /// The worst error as a multiple of the tolerance; more than 1 is a failure.
    pub ratio_atol: Number,
    pub ratio_tight: Option<Number>,
    /// Where `ratio_atol` was reached: absent for an empty tensor.
    #[serde(flatten)]
    pub worst: Option<Worst>,
}

/// The element with the largest ratio.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Worst {
    #[serde(rename = "worst_channel")]
    pub channel: usize,
    #[serde(rename = "worst_index")]
    pub index: usize,
    pub got: Number,
    pub truth: Number,
}

impl Comparison {
    pub fn within_tolerance(&self) -> bool {
        self.ratio_atol.0 <= 1.0
    }
}

/// One compared pair with the channel that decides the tolerance.
struct Pair {
    index: usize,
    channel: usize,
    got: f64,
    truth: f64,
    deviation: f64,
    limit: Limit,
}

/// How large a deviation may be, as a function of the channel's absolute tolerance.
enum Limit {
    Element { relative: f64 },
    Sum(SumBound),
}

/// The coefficients of the bound on a sum, as a polynomial in the absolute tolerance.
///
/// Each element may be off by `e = atol + rtol·|truth|`, and `|truth| <= |got| + e`. That gives
/// `e <= (atol + rtol·|got|)/(1 - rtol) = a + b·|got|`, so the sum may be off by `Σe = M·a + b·Σ|got|` and, since
/// `|got² - truth²| <= e·(2·|got| + e)`, the sum of squares by `Σ e·(2·|got| + e)`.
struct SumBound {
    squares: bool,
    count: f64,
    sum_abs: f64,
    sum_squares: f64,
    rtol: f64,
}

impl SumBound {
    fn at(&self, atol: f64) -> f64 {
        let (a, b) = (atol / (1.0 - self.rtol), self.rtol / (1.0 - self.rtol));
        let (bound, magnitude) = if self.squares {
            // Σ (a + b|g|)·(a + (2 + b)|g|)
            let mixed = a * (2.0 + 2.0 * b) * self.sum_abs;
            (self.count * a * a + mixed + b * (2.0 + b) * self.sum_squares, self.sum_squares)
        } else {
            (self.count * a + b * self.sum_abs, self.sum_abs)
        };
        // Both sums were themselves accumulated in f64, each with at most M roundings of a partial sum.
        bound + self.count * f64::EPSILON * magnitude
    }
}

impl Limit {
    fn at(&self, atol: f64) -> f64 {
        match self {
            Self::Element { relative } => atol + relative,
            Self::Sum(bound) => bound.at(atol),
        }
    }
}

/// Compares a produced tensor with a truth about it.
///
/// # Errors
/// A message when the produced tensor has another length than the truth.
pub fn compare(
    truth: &Truth,
    values: &[f32],
    problem: Problem,
    samples: &[usize],
    rule: NonFinite,
) -> Result<Comparison, String> {
    let expected = if truth.kind == Kind::Channels { truth.values.len() as u64 } else { problem.elements() };
    if values.len() as u64 != expected {
        return Err(format!("{}: {} values, expected {expected}", truth.tensor, values.len()));
    }
    let channel_of = |index: usize| index / problem.inner.max(1) as usize % problem.channels as usize;
    let element = |(got, expected): (f32, f64), index: usize, channel: usize| Pair {
        index,
        channel,
        got: f64::from(got),
        truth: expected,
        deviation: element_deviation(got, expected, truth.element, rule),
        limit: Limit::Element { relative: truth.rtol * expected.abs() },
    };
    let both = values.iter().copied().zip(truth.values.iter().copied()).enumerate();
    Ok(match truth.kind {
        Kind::Elements => worst(truth, both.map(|(index, pair)| element(pair, index, channel_of(index)))),
        Kind::Channels => worst(truth, both.map(|(index, pair)| element(pair, index, index))),
        Kind::Samples => {
            let pairs = samples.iter().zip(&truth.values);
            worst(truth, pairs.map(|(&index, &expected)| element((values[index], expected), index, channel_of(index))))
        }
        Kind::ChannelSums | Kind::ChannelSquares => worst(truth, sums(truth, values, problem, rule).into_iter()),
    })
}

/// The error of one element: 0 where the values count as equal, infinite where they cannot be compared.
fn element_deviation(got: f32, truth: f64, element: ElementType, rule: NonFinite) -> f64 {
    let rounded = storage::round(element, truth);
    if !rounded.is_finite() {
        let got = f64::from(got);
        // A finite truth outside the range of its type is right as an infinity and also, within tolerance, as a number.
        return if same_kind(got, rounded, rule) { 0.0 } else { finite_difference(got, truth) };
    }
    // A device may flush subnormals to zero.
    if got == 0.0 && truth.abs() < f64::from(f32::MIN_POSITIVE) {
        return 0.0;
    }
    finite_difference(f64::from(got), truth)
}

/// Whether two values are the same non-finite value under the rule.
fn same_kind(got: f64, truth: f64, rule: NonFinite) -> bool {
    match rule {
        NonFinite::SameKind => got.is_nan() && truth.is_nan() || got == truth,
        NonFinite::AnyKind => !got.is_finite(),
    }
}

/// `|got - truth|`, infinite unless both are finite.
fn finite_difference(got: f64, truth: f64) -> f64 {
    if got.is_finite() && truth.is_finite() { (got - truth).abs() } else { f64::INFINITY }
}

/// The produced sums over each channel, paired with the expected ones.
fn sums(truth: &Truth, values: &[f32], problem: Problem, rule: NonFinite) -> Vec<Pair> {
    let channels = problem.channels as usize;
    let (mut sum, mut sum_abs, mut sum_squares) = (vec![0.0; channels], vec![0.0; channels], vec![0.0; channels]);
    for (row, elements) in values.chunks(problem.inner.max(1) as usize).enumerate() {
        let channel = row % channels;
        for value in elements.iter().map(|&value| f64::from(value)) {
            sum[channel] += value;
            sum_abs[channel] += value.abs();
            sum_squares[channel] += value * value;
        }
    }
    let squares = truth.kind == Kind::ChannelSquares;
    let pair = |channel: usize| {
        let got = if squares { sum_squares[channel] } else { sum[channel] };
        let expected = truth.values[channel];
        let equal = !expected.is_finite() && same_kind(got, expected, rule);
        let bound = SumBound {
            squares,
            count: problem.count() as f64,
            sum_abs: sum_abs[channel],
            sum_squares: sum_squares[channel],
            rtol: truth.rtol,
        };
        let deviation = if equal { 0.0 } else { finite_difference(got, expected) };
        Pair { index: channel, channel, got, truth: expected, deviation, limit: Limit::Sum(bound) }
    };
    (0..channels).map(pair).collect()
}

/// The deviation as a multiple of its limit.
fn ratio(deviation: f64, limit: f64) -> f64 {
    if deviation == 0.0 {
        return 0.0;
    }
    // Not f64::max: an undefined limit must not become a small one.
    let ratio = deviation / if limit < 1e-300 { 1e-300 } else { limit };
    if ratio.is_nan() { f64::INFINITY } else { ratio }
}

/// The largest ratio to each tolerance.
fn worst(truth: &Truth, pairs: impl Iterator<Item = Pair>) -> Comparison {
    let mut comparison = Comparison {
        tensor: truth.name.clone(),
        ratio_atol: Number(0.0),
        ratio_tight: truth.tight.as_ref().map(|_| Number(0.0)),
        worst: None,
    };
    for pair in pairs {
        let ratio_atol = ratio(pair.deviation, pair.limit.at(truth.atol[pair.channel]));
        if comparison.worst.is_none() || ratio_atol > comparison.ratio_atol.0 {
            comparison.ratio_atol = Number(ratio_atol);
            comparison.worst = Some(Worst {
                channel: pair.channel,
                index: pair.index,
                got: Number(pair.got),
                truth: Number(pair.truth),
            });
        }
        if let (Some(worst), Some(tight)) = (&mut comparison.ratio_tight, &truth.tight) {
            worst.0 = worst.0.max(ratio(pair.deviation, pair.limit.at(tight[pair.channel])));
        }
    }
    comparison
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROBLEM: Problem = Problem { outer: 2, channels: 2, inner: 2 };

    fn truth(kind: Kind, values: &[f64]) -> Truth {
        Truth {
            name: "y".into(),
            tensor: "y",
            kind,
            element: ElementType::F32,
            values: values.to_vec(),
            atol: vec![0.5, 0.25],
            tight: Some(vec![0.25, 0.125]),
            rtol: 0.0,
        }
    }

    fn ratio_of(truth: &Truth, values: &[f32], rule: NonFinite) -> f64 {
        compare(truth, values, PROBLEM, &[1, 6], rule).unwrap().ratio_atol.0
    }

    #[test]
    fn an_error_of_exactly_the_tolerance_passes_and_more_fails() {
        let truth = truth(Kind::Channels, &[1.0, 2.0]);
        let at = compare(&truth, &[1.5, 2.0], PROBLEM, &[], NonFinite::SameKind).unwrap();
        assert_eq!((at.ratio_atol, at.ratio_tight), (Number(1.0), Some(Number(2.0))));
        assert!(at.within_tolerance());
        let above = compare(&truth, &[1.0, 2.250_001], PROBLEM, &[], NonFinite::SameKind).unwrap();
        assert!(!above.within_tolerance());
        assert_eq!(above.worst.unwrap().channel, 1);
    }

    #[test]
    fn elements_and_samples_take_the_tolerance_of_their_channel() {
        let elements = truth(Kind::Elements, &[0.0; 8]);
        assert_eq!(ratio_of(&elements, &[0.0, 0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], NonFinite::SameKind), 1.0);
        assert_eq!(ratio_of(&elements, &[0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.5, 0.0], NonFinite::SameKind), 2.0);
        let samples = truth(Kind::Samples, &[0.0, 0.0]);
        assert_eq!(ratio_of(&samples, &[9.0, 0.5, 9.0, 9.0, 9.0, 9.0, 0.5, 9.0], NonFinite::SameKind), 2.0);
    }

    #[test]
    fn the_relative_part_grows_with_the_truth() {
        let relative = Truth { rtol: 0.5, ..truth(Kind::Channels, &[-4.0, 0.0]) };
        assert_eq!(ratio_of(&relative, &[-6.5, 0.0], NonFinite::SameKind), 1.0);
    }

    #[test]
    fn non_finite_values_equal_their_own_kind_only() {
        for (expected, got) in [(f64::NAN, f32::NAN), (f64::INFINITY, f32::INFINITY), (1e300, f32::INFINITY)] {
            assert_eq!(ratio_of(&truth(Kind::Channels, &[expected, 0.0]), &[got, 0.0], NonFinite::SameKind), 0.0);
        }
        for (expected, got) in [
            (f64::NAN, f32::INFINITY),
            (f64::INFINITY, f32::NEG_INFINITY),
            (f64::INFINITY, f32::NAN),
            (-1e300, f32::INFINITY),
            (1e300, f32::MAX),
        ] {
            let ratio = ratio_of(&truth(Kind::Channels, &[expected, 0.0]), &[got, 0.0], NonFinite::SameKind);
            assert!(ratio > 1.0, "{expected} {got}");
        }
    }

    #[test]
    fn the_range_is_that_of_the_element_type() {
        let half = Truth { element: ElementType::F16, ..truth(Kind::Channels, &[65520.0, 65519.0]) };
        assert_eq!(ratio_of(&half, &[f32::INFINITY, 65519.0], NonFinite::SameKind), 0.0);
        assert_eq!(ratio_of(&half, &[f32::INFINITY, f32::INFINITY], NonFinite::AnyKind), f64::INFINITY);
        let brain = Truth { element: ElementType::Bf16, ..truth(Kind::Channels, &[3.4e38, 65520.0]) };
        assert_eq!(ratio_of(&brain, &[f32::INFINITY, 65520.0], NonFinite::SameKind), 0.0);
    }

    #[test]
    fn a_device_may_answer_with_any_non_finite_value_but_with_no_finite_one() {
        for expected in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            let truth = truth(Kind::Channels, &[expected, 0.0]);
            for got in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                assert_eq!(ratio_of(&truth, &[got, 0.0], NonFinite::AnyKind), 0.0, "{expected} {got}");
            }
            assert!(ratio_of(&truth, &[0.0, 0.0], NonFinite::AnyKind) > 1.0, "{expected}");
        }
    }

    #[test]
    fn a_non_finite_value_where_the_truth_is_finite_fails() {
        for rule in [NonFinite::SameKind, NonFinite::AnyKind] {
            for got in [f32::NAN, f32::INFINITY] {
                assert_eq!(ratio_of(&truth(Kind::Channels, &[1.0, 1.0]), &[1.0, got], rule), f64::INFINITY);
                let sums = truth(Kind::ChannelSums, &[0.0, 0.0]);
                assert_eq!(ratio_of(&sums, &[got, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0], rule), f64::INFINITY);
            }
        }
    }

    #[test]
    fn a_tolerance_that_is_not_a_number_admits_exact_values_only() {
        let undefined = Truth { atol: vec![f64::NAN, 1.0], ..truth(Kind::Channels, &[1.0, 1.0]) };
        assert_eq!(ratio_of(&undefined, &[1.0, 1.0], NonFinite::SameKind), 0.0);
        assert_eq!(ratio_of(&undefined, &[1.1, 1.0], NonFinite::SameKind), f64::INFINITY);
        let zero = Truth { atol: vec![0.0, 0.0], ..truth(Kind::Channels, &[1.0, 1.0]) };
        assert!(ratio_of(&zero, &[1.0, 1.000_001], NonFinite::SameKind) > 1.0);
    }

    #[test]
    fn zero_is_right_for_a_subnormal_truth() {
        let subnormal = Truth { atol: vec![0.0, 0.0], ..truth(Kind::Channels, &[1e-40, -1e-40]) };
        assert_eq!(ratio_of(&subnormal, &[0.0, -0.0], NonFinite::SameKind), 0.0);
        let normal = Truth { atol: vec![0.0, 0.0], ..truth(Kind::Channels, &[1e-37, 0.0]) };
        assert!(ratio_of(&normal, &[0.0, 0.0], NonFinite::SameKind) > 1.0);
    }

    #[test]
    fn sums_may_be_off_by_what_their_elements_may_be_off() {
        let values = [1.0, 2.0, 10.0, 20.0, 3.0, 4.0, 30.0, 40.0];
        // Channel 0 holds 1, 2, 3, 4: each may be 0.5 less.
        let low = ratio_of(&truth(Kind::ChannelSums, &[8.0, 100.0]), &values, NonFinite::SameKind);
        assert!((low - 1.0).abs() < 1e-12, "{low}");
        let squares: f64 = [1.5_f64, 2.5, 3.5, 4.5].iter().map(|value| value * value).sum();
        let high = ratio_of(&truth(Kind::ChannelSquares, &[squares, 3000.0]), &values, NonFinite::SameKind);
        assert!((high - 1.0).abs() < 1e-12, "{high}");
    }

    #[test]
    fn the_bound_on_sums_covers_the_relative_part() {
        let values = [1.0, 2.0, 0.0, 0.0, 3.0, 4.0, 0.0, 0.0];
        // Elements that differ by exactly atol + rtol·|truth|: truth = (got + atol)/(1 - rtol).
        let far: Vec<f64> = [1.0, 2.0, 3.0, 4.0].iter().map(|got| (got + 0.5) / 0.75).collect();
        for (kind, expected) in [
            (Kind::ChannelSums, far.iter().sum::<f64>()),
            (Kind::ChannelSquares, far.iter().map(|value| value * value).sum()),
        ] {
            let relative = Truth { rtol: 0.25, ..truth(kind, &[expected, 0.0]) };
            let ratio = ratio_of(&relative, &values, NonFinite::SameKind);
            assert!((ratio - 1.0).abs() < 1e-12, "{kind:?} {ratio}");
        }
    }

    #[test]
    fn a_tensor_of_another_length_is_an_error_and_an_empty_one_agrees() {
        let truth = truth(Kind::Elements, &[]);
        assert!(compare(&truth, &[1.0], PROBLEM, &[], NonFinite::SameKind).is_err());
        let empty = Problem { outer: 0, channels: 2, inner: 3 };
        assert_eq!(compare(&truth, &[], empty, &[], NonFinite::SameKind).unwrap().ratio_atol, Number(0.0));
    }
}
