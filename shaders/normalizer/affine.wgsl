// The normaliser, gamma and beta as one affine map: one rounding less than to scale and shift what was normalised.

/// gamma · inverse = power · scale, and t = gamma · x̂ + beta = ((x − centre) · power) · scale + shift. The power is one of two: to
/// multiply by it costs no digits, and as it is near the inverse nothing leaves the range of f32 where t does not, as gamma · inverse
/// may. Where the inverse is no number or infinite it is all in the scale.
struct Affine {
    power: vec4<f32>,
    scale: vec4<f32>,
    shift: vec4<f32>,
}

/// With the centre of `with_short_centre`.
fn affine_of(normalizer: Normalizer, gamma: vec4<f32>, beta: vec4<f32>) -> Affine {
    let inverse = normalizer.inverse;
    let power = power_of(inverse);
    let factor = bitcast<vec4<f32>>((bitcast<vec4<u32>>(inverse) & vec4<u32>(0x007fffffu)) | vec4<u32>(0x3f800000u));
    let scale = select(inverse, factor, has_exponent(inverse)) * gamma;
    // An infinite gamma in both terms would make a NaN of infinities.
    let shift = select(beta, fma(normalizer.shift, gamma, beta), has_exponent(gamma));
    let moved = with_short_centre(normalizer, gamma).centre - normalizer.centre;
    return Affine(power, scale, select(shift, fma(moved * power, scale, shift), moved != vec4<f32>()));
}

/// Within two deviations of 0 the centre is cut off to a multiple of half a deviation or so, and the affine shift has the rest: a
/// difference from few digits is not rounded where it is smaller than x, and one from 0 never. The deviation is the one without
/// epsilon, less a little, so that what is constant stays exactly beta; and a gamma near the end of f32 leaves the centre alone.
fn with_short_centre(normalizer: Normalizer, gamma: vec4<f32>) -> Normalizer {
    let inverse = normalizer.inverse;
    let distance = normalizer.centre * inverse;
    let square = distance * distance;
    let most = 4.0 - ((4.004 * params.epsilon) * inverse) * inverse;
    let near = (square > vec4<f32>()) & (square <= most) & (abs(gamma) < vec4<f32>(1e37));
    let power = 2.0 * power_of(inverse);
    return Normalizer(select(normalizer.centre, trunc(normalizer.centre * power) / power, near), inverse, normalizer.shift);
}

/// The largest power of two that is no larger, or 1 for what is no number or infinite.
fn power_of(value: vec4<f32>) -> vec4<f32> {
    let power = bitcast<vec4<f32>>(bitcast<vec4<u32>>(value) & vec4<u32>(0x7f800000u));
    return select(vec4<f32>(1.0), power, has_exponent(value));
}

fn has_exponent(value: vec4<f32>) -> vec4<bool> {
    return (bitcast<vec4<u32>>(value) & vec4<u32>(0x7f800000u)) != vec4<u32>(0x7f800000u);
}

fn scaled_and_shifted(normalizer: Normalizer, affine: Affine, x: vec4<f32>) -> vec4<f32> {
    return fma((x - normalizer.centre) * affine.power, affine.scale, affine.shift);
}
