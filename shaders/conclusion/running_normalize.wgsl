// What normalise needs, of recorded statistics.

fn coefficients_of(place: Place) -> Coefficients {
    let channels = channels_of(place);
    return with_short_centre(coefficients_with(channels, normalizers_at(channels)));
}

/// Within two deviations of 0 the centre is cut off to a multiple of half a deviation or so, and the shift has the rest: a difference
/// from few digits is not rounded where it is smaller than x, and one from 0 never. The deviation is the one without epsilon, less a
/// little, so that what is constant stays exactly beta; and a gamma near the end of f32 leaves the centre alone. So does a beta that
/// is smaller than the rest: near the mean y would lose digits. Not in training, whose mean is off by more than the roundings that
/// this saves.
fn with_short_centre(coefficients: Coefficients) -> Coefficients {
    let normalizer = coefficients.normalizer;
    let affine = coefficients.affine;
    let inverse = normalizer.inverse;
    let distance = normalizer.centre * inverse;
    let square = distance * distance;
    let most = 4.0 - ((4.004 * params.epsilon) * inverse) * inverse;
    let near = (square > vec4<f32>()) & (square <= most) & (abs(affine.scale) < vec4<f32>(1e37));
    let halves = 2.0 * affine.power;
    let centre = trunc(normalizer.centre * halves) / halves;
    let rest = (centre - normalizer.centre) * affine.power;
    let shift = fma(rest, affine.scale, affine.shift);
    let taken = near & (abs(rest * affine.scale) <= abs(affine.shift));
    return Coefficients(
        Normalizer(select(normalizer.centre, centre, taken), inverse, normalizer.shift),
        Affine(affine.power, affine.scale, select(affine.shift, shift, taken)),
    );
}
