// The activation, and the way of a gradient back through it. Which one is a constant of the pipeline.

override ACTIVATION: u32;

const IDENTITY: u32 = 0u;
const RELU: u32 = 1u;
const LEAKY_RELU: u32 = 2u;
const SILU: u32 = 3u;
const GELU: u32 = 4u;
const GELU_TANH: u32 = 5u;

/// Beyond, the tail of the normal distribution is below the smallest normal f32.
const NORMAL_TAIL: f32 = 13.0;
const SQRT_HALF: f32 = 0.70710678;
const SQRT_2_OVER_PI: f32 = 0.79788456;
const INVERSE_SQRT_2_PI: f32 = 0.39894228;

/// f(t). Selections, so that a NaN stays one.
fn activated(t: vec4<f32>) -> vec4<f32> {
    if ACTIVATION == RELU {
        return select(t, vec4<f32>(), t <= vec4<f32>());
    }
    if ACTIVATION == LEAKY_RELU {
        return select(t, params.slope * t, t <= vec4<f32>());
    }
    if ACTIVATION == SILU {
        return share_of(t, t);
    }
    if ACTIVATION == GELU {
        return weighted(t, normal_distribution(t, bell(t)));
    }
    if ACTIVATION == GELU_TANH {
        return share_of(t, gelu_argument(t));
    }
    return t;
}

/// t/(1 + exp(−argument)) without the rounding of a share, and 0 where the share is 0 and t infinite.
fn share_of(t: vec4<f32>, argument: vec4<f32>) -> vec4<f32> {
    let decayed = decay(argument);
    let weight = select(decayed, vec4<f32>(1.0), argument > vec4<f32>());
    return weighted(t, weight) / (1.0 + decayed);
}

/// t·weight, and 0 where a weight of 0 meets an infinite t.
fn weighted(t: vec4<f32>, weight: vec4<f32>) -> vec4<f32> {
    return select(t * weight, vec4<f32>(), (weight == vec4<f32>()) & (t < vec4<f32>()));
}

/// g·f'(t).
fn through_activation(g: vec4<f32>, t: vec4<f32>) -> vec4<f32> {
    if ACTIVATION == SILU || ACTIVATION == GELU || ACTIVATION == GELU_TANH {
        return g * with_nan_of(t, smooth_derivative(t));
    }
    return through_sign(g, t <= vec4<f32>());
}

/// f'(t) of a t that is a number. Where t is clamped, f' is 0 or 1 to the last digit.
fn smooth_derivative(t: vec4<f32>) -> vec4<f32> {
    if ACTIVATION == SILU {
        let shares = logistic_shares(t);
        let c = clamp(t, vec4<f32>(-100.0), vec4<f32>(100.0));
        return shares.share + (c * shares.rest) * shares.share;
    }
    if ACTIVATION == GELU {
        let c = clamp(t, vec4<f32>(-NORMAL_TAIL), vec4<f32>(NORMAL_TAIL));
        let density = bell(t);
        return normal_distribution(t, density) + c * (INVERSE_SQRT_2_PI * density);
    }
    let shares = logistic_shares(gelu_argument(t));
    let c = clamp(t, vec4<f32>(-30.0), vec4<f32>(30.0));
    let slope = 2.0 * SQRT_2_OVER_PI * (1.0 + 3.0 * 0.044715 * c * c);
    return shares.share + c * (slope * (shares.share * shares.rest));
}

/// The value, or t where that is a NaN, by bits: `clamp` may turn one into a number.
fn with_nan_of(t: vec4<f32>, value: vec4<f32>) -> vec4<f32> {
    let nan = (bitcast<vec4<u32>>(t) & vec4<u32>(0x7fffffffu)) > vec4<u32>(0x7f800000u);
    return select(value, t, nan);
}

/// g·f'(t) where the sign of t is enough to know.
fn through_sign(g: vec4<f32>, not_positive: vec4<bool>) -> vec4<f32> {
    if ACTIVATION == RELU {
        return select(g, vec4<f32>(), not_positive);
    }
    if ACTIVATION == LEAKY_RELU {
        return select(g, params.slope * g, not_positive);
    }
    return g;
}

/// f⁻¹(y), where there is one: for the identity and a leaky ReLU.
fn inverse_activation(y: vec4<f32>) -> vec4<f32> {
    if ACTIVATION == LEAKY_RELU {
        return select(y, y / params.slope, y <= vec4<f32>());
    }
    return y;
}

/// 1/(1 + exp(−t)) and 1/(1 + exp(t)), the larger by subtraction from 1, as a quotient has more roundings.
struct Shares {
    share: vec4<f32>,
    rest: vec4<f32>,
}

/// exp(−|t|). Beyond 87 it has no value; 0 stands for it.
fn decay(t: vec4<f32>) -> vec4<f32> {
    return select(exponential(-min(abs(t), vec4<f32>(87.0))), vec4<f32>(), abs(t) > vec4<f32>(87.0));
}

fn logistic_shares(t: vec4<f32>) -> Shares {
    let decayed = decay(t);
    let smaller = decayed / (1.0 + decayed);
    let larger = 1.0 - smaller;
    let positive = t > vec4<f32>();
    return Shares(select(smaller, larger, positive), select(larger, smaller, positive));
}

/// exp(−t²/2), and 0 in the tail.
fn bell(t: vec4<f32>) -> vec4<f32> {
    let c = clamp(t, vec4<f32>(-NORMAL_TAIL), vec4<f32>(NORMAL_TAIL));
    return select(exponential(-0.5 * c * c), vec4<f32>(), abs(t) > vec4<f32>(NORMAL_TAIL));
}

/// The distribution function of the standard normal, given exp(−t²/2): by the scaled complementary error function of |t|/√2, a
/// polynomial in 1/(1 + 0.4·|t|/√2), fitted by Chebyshev interpolation to 3e-8.
fn normal_distribution(t: vec4<f32>, density: vec4<f32>) -> vec4<f32> {
    let z = min(abs(t), vec4<f32>(NORMAL_TAIL)) * SQRT_HALF;
    let w = 1.0 / (1.0 + 0.4 * z);
    var scaled = vec4<f32>(0.0812508204);
    scaled = scaled * w - 0.430570378;
    scaled = scaled * w + 0.764581022;
    scaled = scaled * w - 0.474122075;
    scaled = scaled * w + 0.485416708;
    scaled = scaled * w + 0.102947706;
    scaled = scaled * w + 0.247173963;
    scaled = scaled * w + 0.223200345;
    scaled = scaled * w + 0.000121888836;
    let tail = 0.5 * scaled * density;
    return select(tail, 1.0 - tail, t > vec4<f32>());
}

/// Twice the argument of tanh, since (1 + tanh u)/2 is the logistic function of 2u.
fn gelu_argument(t: vec4<f32>) -> vec4<f32> {
    let c = clamp(t, vec4<f32>(-30.0), vec4<f32>(30.0));
    return 2.0 * SQRT_2_OVER_PI * (c + 0.044715 * c * c * c);
}
