// What the gradient of each element of a unit is taken back through, of those of its quad.

fn picked_basis(basis: Basis, owners: Owners) -> Basis {
    return Basis(
        picked_normalizer(basis.normalizer, owners),
        picked(basis.gamma, owners),
        picked(basis.beta, owners),
    );
}
