// exp, to the last place or so on every driver.

const LOG2_E: f32 = 1.44269504;
/// ln 2 in two parts, the first of so few bits that its multiples are exact.
const LN_2_HIGH: f32 = 0.693145752;
const LN_2_LOW: f32 = 1.42860677e-6;

/// exp(x) for x from −87 to 0, off by 0.73 units in the last place at most, where WGSL grants its own 3 + 2·|x|: 2ⁿ·exp(r) with
/// |r| ≤ ln(2)/2, and exp(r) = 1 + r + r²·(a polynomial by Chebyshev interpolation). Neither a fused operation that is carried out
/// in two nor one that a compiler makes of the two steps to r costs more than digits that x does not have.
fn exponential(x: vec4<f32>) -> vec4<f32> {
    let n = round(x * LOG2_E);
    let r = (x - n * LN_2_HIGH) - n * LN_2_LOW;
    var tail = vec4<f32>(0.00139263261);
    tail = tail * r + 0.0083632929;
    tail = tail * r + 0.041666552;
    tail = tail * r + 0.16666576;
    tail = tail * r + 0.5;
    let mantissa = 1.0 + (r + r * r * tail);
    return bitcast<vec4<f32>>((vec4<i32>(n) + 127) << vec4<u32>(23u)) * mantissa;
}
