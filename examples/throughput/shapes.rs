//! The shapes that are measured.

use wgpu_batch_norm::{Error, Layout, Shape};

/// (N, C, H, W), in this order for both layouts; channels last stores it as (N, H, W, C).
pub type Dims = [usize; 4];

/// Shapes that stand for the ways in which problems differ: large and small, few and many channels, short rows, one
/// sample or a thousand.
pub const REPRESENTATIVE: [Dims; 10] = [
    [32, 64, 56, 56],
    [32, 256, 14, 14],
    [32, 512, 7, 7],
    [8, 64, 112, 112],
    [1024, 512, 1, 1],
    [16, 3, 224, 224],
    [256, 32, 8, 8],
    [256, 2048, 1, 1],
    [20, 6, 256, 256],
    [1, 2048, 7, 7],
];

/// The batch norms of ResNet-50 on 32 images of 224 × 224: each distinct shape, and how many layers have it.
pub const RESNET_50: [(Dims, u32); 12] = [
    ([32, 64, 112, 112], 1),
    ([32, 64, 56, 56], 6),
    ([32, 256, 56, 56], 4),
    ([32, 128, 56, 56], 1),
    ([32, 128, 28, 28], 7),
    ([32, 512, 28, 28], 5),
    ([32, 256, 28, 28], 1),
    ([32, 256, 14, 14], 11),
    ([32, 1024, 14, 14], 7),
    ([32, 512, 14, 14], 1),
    ([32, 512, 7, 7], 5),
    ([32, 2048, 7, 7], 4),
];

/// The shape as it is stored.
pub fn stored(dims: Dims, layout: Layout) -> Result<Shape, Error> {
    let [n, c, h, w] = dims;
    Shape::new(&match layout {
        Layout::ChannelsFirst => [n, c, h, w],
        Layout::ChannelsLast => [n, h, w, c],
    })
}

/// What a run without `--shape` measures, every shape once.
pub fn standard() -> Vec<Dims> {
    let mut shapes = REPRESENTATIVE.to_vec();
    shapes.extend(RESNET_50.iter().map(|(dims, _)| dims).filter(|dims| !REPRESENTATIVE.contains(dims)));
    shapes
}

/// Shapes of 2¹⁰, 2¹², … 2²⁶ elements. Every sixteenfold has exactly the ratios of the first, the ones between have
/// height and width doubled and samples and channels not yet.
pub fn growing() -> Vec<Dims> {
    (0..=8_u32)
        .map(|step| {
            let (outer, inner) = (1 << (step / 2), 1 << step.div_ceil(2));
            [4 * outer, 16 * outer, 4 * inner, 4 * inner]
        })
        .collect()
}

/// Reads `N,C,H,W`.
pub fn parse(text: &str) -> Result<Dims, String> {
    let numbers: Result<Vec<usize>, _> = text.split(',').map(|number| number.trim().parse()).collect();
    let numbers = numbers.map_err(|error| error.to_string())?;
    Dims::try_from(numbers).map_err(|numbers| format!("{} numbers, four are needed: N,C,H,W", numbers.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resnet_50_has_53_layers_and_its_known_number_of_activations() {
        let layers: u32 = RESNET_50.iter().map(|(_, layers)| layers).sum();
        let activations: usize = RESNET_50.iter().map(|(dims, n)| dims[1] * dims[2] * dims[3] * *n as usize).sum();
        assert_eq!((layers, activations), (53, 11_113_984));
    }

    #[test]
    fn no_shape_is_measured_twice() {
        let shapes = standard();
        assert_eq!(shapes.len(), 19);
        assert!(shapes.iter().enumerate().all(|(index, dims)| !shapes[..index].contains(dims)));
    }

    #[test]
    fn growth_runs_from_two_to_the_ten_to_two_to_the_twenty_six() {
        let elements: Vec<usize> = growing().iter().map(|dims| dims.iter().product()).collect();
        assert_eq!(elements, (0..9).map(|step| 1 << (10 + 2 * step)).collect::<Vec<usize>>());
    }

    #[test]
    fn a_shape_needs_four_numbers() {
        assert_eq!(parse("1, 2,3,4"), Ok([1, 2, 3, 4]));
        assert!(parse("1,2,3").is_err() && parse("1,2,3,x").is_err() && parse("").is_err());
    }
}
