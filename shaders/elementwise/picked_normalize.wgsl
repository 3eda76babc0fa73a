// What normalises each element of a unit, of those of its quad.

fn picked_coefficients(coefficients: Coefficients, owners: Owners) -> Coefficients {
    let affine = coefficients.affine;
    return Coefficients(
        picked_normalizer(coefficients.normalizer, owners),
        Affine(picked(affine.power, owners), picked(affine.scale, owners), picked(affine.shift, owners)),
    );
}
