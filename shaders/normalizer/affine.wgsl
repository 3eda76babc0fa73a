// The normaliser, gamma and beta as one affine map: one rounding less than to scale and shift what was normalised.

/// gamma · inverse = power · scale, and t = gamma · x̂ + beta = ((x − centre) · power) · scale + shift. The power is one of two: to
/// multiply by it costs no digits, and as it is near the inverse nothing leaves the range of f32 where t does not, as gamma · inverse
/// may. Where the inverse is no number or infinite it is all in the scale.
struct Affine {
    power: vec4<f32>,
    scale: vec4<f32>,
    shift: vec4<f32>,
}

fn affine_of(normalizer: Normalizer, gamma: vec4<f32>, beta: vec4<f32>) -> Affine {
    let mask = vec4<u32>(0x7f800000u);
    let bits = bitcast<vec4<u32>>(normalizer.inverse);
    let exponent = bits & mask;
    let factor = bitcast<vec4<f32>>((bits & vec4<u32>(0x007fffffu)) | vec4<u32>(0x3f800000u));
    return Affine(
        select(vec4<f32>(1.0), bitcast<vec4<f32>>(exponent), exponent != mask),
        select(normalizer.inverse, factor, exponent != mask) * gamma,
        // An infinite gamma in both terms would make a NaN of infinities.
        select(beta, fma(normalizer.shift, gamma, beta), (bitcast<vec4<u32>>(gamma) & mask) != mask),
    );
}

fn scaled_and_shifted(normalizer: Normalizer, affine: Affine, x: vec4<f32>) -> vec4<f32> {
    return fma((x - normalizer.centre) * affine.power, affine.scale, affine.shift);
}
