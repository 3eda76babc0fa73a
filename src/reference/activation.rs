//! Activation functions and their derivatives in f64.

use crate::Activation;

impl Activation {
    /// f(t), to a few roundings of f64.
    ///
    /// A NaN stays a NaN. An infinite t gives the limit: 0 at −∞ for all but `Identity` and `LeakyRelu`.
    ///
    /// ```
    /// use wgpu_batch_norm::Activation;
    /// assert_eq!(Activation::LeakyRelu { slope: 0.25 }.value(-2.0), -0.5);
    /// assert!((Activation::Gelu.value(1.0) - 0.841_344_746_068_542_9).abs() < 1e-15);
    /// ```
    #[must_use]
    pub fn value(self, t: f64) -> f64 {
        match self {
            Self::Relu if t <= 0.0 => 0.0,
            Self::LeakyRelu { slope } if t <= 0.0 => slope * t,
            Self::Identity | Self::Relu | Self::LeakyRelu { .. } => t,
            Self::Silu => weighted(t, logistic(t)),
            Self::Gelu => weighted(t, normal_distribution(t)),
            Self::GeluTanh => weighted(t, logistic(cubic(t))),
        }
    }

    /// f'(t), to a few roundings of f64.
    ///
    /// At 0, where `Relu` and `LeakyRelu` have none, it is that of t < 0. Theirs is 1 for a NaN, so that the gradient
    /// passes (as in PyTorch's `relu`); the other functions have a NaN there. An infinite t gives the limit.
    ///
    /// ```
    /// use wgpu_batch_norm::Activation;
    /// assert_eq!(Activation::Relu.derivative(0.0), 0.0);
    /// assert_eq!(Activation::Silu.derivative(0.0), 0.5);
    /// ```
    #[must_use]
    pub fn derivative(self, t: f64) -> f64 {
        match self {
            Self::Identity | Self::Relu | Self::LeakyRelu { .. } => self.select(passes(t), 1.0),
            Self::Silu => logistic(t) + weighted(t, logistic(t) * logistic(-t)),
            Self::Gelu => normal_distribution(t) + weighted(t, normal_density(t)),
            Self::GeluTanh => {
                let v = cubic(t);
                let slope = TWO_SQRT_2_PI * (1.0 + 3.0 * CUBIC * t * t);
                logistic(v) + weighted(t * slope, logistic(v) * logistic(-v))
            }
        }
    }

    /// h = g·f'(t).
    pub(super) fn gradient(self, t: f64, gradient: f64) -> f64 {
        if self.is_piecewise_linear() { self.select(passes(t), gradient) } else { gradient * self.derivative(t) }
    }

    /// h of a piecewise linear activation, from the sign of t. Selected, since an infinite g times 0 would be a NaN.
    pub(super) fn select(self, positive: bool, gradient: f64) -> f64 {
        match self {
            Self::Relu if !positive => 0.0,
            Self::LeakyRelu { slope } if !positive => slope * gradient,
            _ => gradient,
        }
    }
}

/// Whether a piecewise linear activation passes the gradient at t as it is.
fn passes(t: f64) -> bool {
    t > 0.0 || t.is_nan()
}

/// `t·weight`; 0 of t's sign where the weight is 0, also for an infinite t.
fn weighted(t: f64, weight: f64) -> f64 {
    if weight == 0.0 { 0.0_f64.copysign(t) } else { t * weight }
}

/// σ(t) = 1/(1 + e⁻ᵗ), without overflow.
fn logistic(t: f64) -> f64 {
    let small = (-t.abs()).exp();
    if t < 0.0 { small / (1.0 + small) } else { 1.0 / (1.0 + small) }
}

/// 2·√(2/π).
const TWO_SQRT_2_PI: f64 = 1.595_769_121_605_730_8;
/// The cubic term in the approximation of GELU by tanh.
const CUBIC: f64 = 0.044_715;

/// 2·u with u = √(2/π)·(t + 0.044715·t³), as tanh(u) = 2·σ(2u) − 1.
fn cubic(t: f64) -> f64 {
    TWO_SQRT_2_PI * t * (1.0 + CUBIC * t * t)
}

/// φ(t), the standard normal density.
fn normal_density(t: f64) -> f64 {
    const INVERSE_SQRT_2_PI: f64 = 0.398_942_280_401_432_7;
    // Beyond, the density is less than the smallest f64, and the square may overflow.
    if t.abs() > 40.0 {
        return 0.0;
    }
    let square = t * t;
    // What the square was rounded by would count t²/2 times as much in the density.
    let rounding = t.mul_add(t, -square);
    INVERSE_SQRT_2_PI * (-0.5 * square).exp() * (1.0 - 0.5 * rounding)
}

/// Φ(t) = (1 + erf(t/√2))/2, the standard normal distribution, accurate relative to itself also where it is small.
fn normal_distribution(t: f64) -> f64 {
    let size = t.abs();
    if size < 2.0 {
        // Φ(t) = 1/2 + φ(t)·(t + t³/3 + t⁵/(3·5) + …); thirty terms leave less than 1e-22. It
        // loses up to five bits where Φ is small, which the fraction below would take hundreds of levels to keep.
        let (mut term, mut sum) = (t, t);
        for index in 1..=30 {
            term *= t * t / f64::from(2 * index + 1);
            sum += term;
        }
        return 0.5 + normal_density(t) * sum;
    }
    // Laplace's continued fraction, 1 − Φ(t) = φ(t)/(t + 1/(t + 2/(t + 3/(t + …)))), from the inside out. Counted,
    // 12 + 420/t² levels leave less than 2⁻⁵⁶.
    let levels = 15 + (450.0 / (size * size)) as u32;
    let fraction = (1..=levels).rev().fold(size, |inside, level| size + f64::from(level) / inside);
    let tail = normal_density(t) / fraction;
    if t > 0.0 { 1.0 - tail } else { tail }
}
