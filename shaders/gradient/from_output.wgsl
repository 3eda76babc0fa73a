// x̂ from the output.

/// (f⁻¹(y) − beta) / gamma; where gamma is 0 the output knows nothing of x̂, and 0 stands for it. No x̂ is larger than the
/// root of the count, but the rounding of y over a small gamma may be, and dx would have its square.
fn normalized_output(basis: Basis, y: vec4<f32>) -> vec4<f32> {
    let shifted = inverse_activation(y) - basis.beta;
    let absent = basis.gamma == vec4<f32>();
    let found = select(shifted / select(basis.gamma, vec4<f32>(1.0), absent), vec4<f32>(), absent);
    // A NaN is not larger, and stays one.
    let largest = vec4<f32>(inverseSqrt(params.inverse_count));
    return select(found, select(largest, -largest, found < vec4<f32>()), abs(found) > largest);
}
