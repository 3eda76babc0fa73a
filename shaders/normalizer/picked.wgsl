// The normaliser of each element of a unit, of those of its quad.

fn picked_normalizer(normalizer: Normalizer, owners: Owners) -> Normalizer {
    return Normalizer(
        picked(normalizer.centre, owners),
        picked(normalizer.inverse, owners),
        picked(normalizer.shift, owners),
    );
}
