// What a value is normalised with; the four components are four channels.

struct Normalizer {
    pivot: vec4<f32>,
    offset: vec4<f32>,
    inverse: vec4<f32>,
}

/// x̂ = (x − mean) · inverse deviation; two differences keep the mean's rounding out of the result.
fn normalized(normalizer: Normalizer, x: vec4<f32>) -> vec4<f32> {
    return ((x - normalizer.pivot) - normalizer.offset) * normalizer.inverse;
}
