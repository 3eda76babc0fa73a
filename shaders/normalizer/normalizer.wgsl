// What a value is normalised with; the four components are four channels.

/// x̂ = (x − centre) · inverse + shift, with the mean rounded as centre, and what the rounding took away in the shift.
struct Normalizer {
    centre: vec4<f32>,
    inverse: vec4<f32>,
    shift: vec4<f32>,
}

/// Of a mean in two parts. The centre loses its last bit so that no compiler can see what it is a sum of: (pivot + offset) − pivot
/// would be taken for offset, and the shift for 0. Where one part says it all the centre is that part, and there is no shift.
fn normalizer_of(pivot: vec4<f32>, offset: vec4<f32>, inverse: vec4<f32>) -> Normalizer {
    let near = bitcast<vec4<f32>>(bitcast<vec4<u32>>(pivot + offset) & vec4<u32>(0xfffffffeu));
    let centre = select(near, pivot, offset == vec4<f32>());
    return Normalizer(centre, inverse, ((centre - pivot) - offset) * inverse);
}

fn normalized(normalizer: Normalizer, x: vec4<f32>) -> vec4<f32> {
    return fma(x - normalizer.centre, normalizer.inverse, normalizer.shift);
}
