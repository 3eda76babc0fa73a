// The part of the extent that a workgroup covers. Apart from `Place`, so that what depends on it alone is uniform.

struct Extent {
    split: u32,
    start: u32,
    end: u32,
}

fn extent_of(group: u32) -> Extent {
    let split = group / params.tiles;
    let start = split * params.split_extent;
    return Extent(split, start, min(start + params.split_extent, params.extent));
}
