// What the input gradient of each element of a unit needs, of those of its quad.

fn picked_coefficients(coefficients: Coefficients, owners: Owners) -> Coefficients {
    return Coefficients(
        picked_basis(coefficients.basis, owners),
        picked(coefficients.mean, owners),
        picked(coefficients.product_mean, owners),
    );
}
