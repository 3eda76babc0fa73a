use wgpu_batch_norm::Layout;

use super::{check, everywhere, input, parameter};
use crate::network::convolution::{Convolution, Images};
use crate::network::tape::Tape;

const LAYOUTS: [Layout; 2] = [Layout::ChannelsFirst, Layout::ChannelsLast];

/// The index of a pixel; `None` outside the image.
fn at(images: &Images, n: usize, c: usize, y: usize, x: usize) -> Option<usize> {
    let Images { channels, height, width, layout, .. } = *images;
    (y < height && x < width).then(|| match layout {
        Layout::ChannelsFirst => ((n * channels + c) * height + y) * width + x,
        Layout::ChannelsLast => ((n * height + y) * width + x) * channels + c,
    })
}

/// Every `(n, c, y, x)`.
fn all(images: &Images) -> impl Iterator<Item = [usize; 4]> {
    let Images { count, channels, height, width, .. } = *images;
    (0..count * channels * height * width)
        .map(move |i| [i / (channels * height * width), i / (height * width) % channels, i / width % height, i % width])
}

fn convolution(from: &Images, to: &Images, size: usize, input: &[f64], weight: &[f64], bias: &[f64]) -> Vec<f64> {
    let mut output = vec![0.0; to.count * to.channels * to.pixels()];
    for [n, o, y, x] in all(to) {
        let mut sum = bias[o];
        for (i, v, u) in (0..from.channels * size * size).map(|k| (k / (size * size), k / size % size, k % size)) {
            // Outside to the left and above wraps to something large.
            let (row, column) = ((y + v).wrapping_sub(size / 2), (x + u).wrapping_sub(size / 2));
            if let Some(index) = at(from, n, i, row, column) {
                sum += input[index] * weight[((o * from.channels + i) * size + v) * size + u];
            }
        }
        output[at(to, n, o, y, x).unwrap()] = sum;
    }
    output
}

#[test]
fn convolutions_have_their_gradients_in_both_layouts() {
    everywhere(|context| {
        for layout in LAYOUTS {
            for (size, channels, outputs, height, width) in [(3, 3, 5, 4, 6), (1, 4, 4, 3, 3), (3, 1, 8, 8, 8)] {
                let from = Images { count: 2, channels, height, width, layout };
                let to = Images { channels: outputs, ..from };
                let layer = Convolution::new(context, layout, channels, outputs, size, true);
                let mut tape = Tape::new(context);
                let x = input(&tape, &from.shape());
                // Twice, so that all gradients add up.
                let results = [tape.convolution(&layer, &x), tape.convolution(&layer, &x)];
                let program = tape.finish().unwrap();
                let inputs: Vec<_> = std::iter::once(parameter(&x)).chain(layer.parameters()).collect();
                check(context, &program, &inputs, &results, |v| {
                    vec![convolution(&from, &to, size, &v[0], &v[1], &v[2]); 2]
                });
            }
        }
    });
}

#[test]
fn pooling_has_its_gradients_in_both_layouts() {
    everywhere(|context| {
        for layout in LAYOUTS {
            let from = Images { count: 3, channels: 5, height: 4, width: 6, layout };
            let to = Images { height: 2, width: 3, ..from };
            let mut tape = Tape::new(context);
            let x = input(&tape, &from.shape());
            let outputs = [
                tape.max_pool(layout, &x),
                tape.mean_pool(layout, &x),
                tape.max_pool(layout, &x),
                tape.mean_pool(layout, &x),
            ];
            let program = tape.finish().unwrap();
            check(context, &program, &[parameter(&x)], &outputs, |v| {
                let mut largest = vec![f64::NEG_INFINITY; to.count * to.channels * to.pixels()];
                let mut means = vec![0.0; from.count * from.channels];
                for [n, c, row, column] in all(&from) {
                    let value = v[0][at(&from, n, c, row, column).unwrap()];
                    let pooled = &mut largest[at(&to, n, c, row / 2, column / 2).unwrap()];
                    *pooled = pooled.max(value);
                    means[n * from.channels + c] += value / from.pixels() as f64;
                }
                vec![largest.clone(), means.clone(), largest, means]
            });
        }
    });
}

#[test]
fn residual_sums_have_their_gradients() {
    everywhere(|context| {
        let mut tape = Tape::new(context);
        let (a, b) = (input(&tape, &[5, 7]), input(&tape, &[5, 7]));
        let sums = [tape.add_relu(&a, &b), tape.add_relu(&b, &a)];
        let program = tape.finish().unwrap();
        check(context, &program, &[parameter(&a), parameter(&b)], &sums, |v| {
            vec![v[0].iter().zip(&v[1]).map(|(a, b)| (a + b).max(0.0)).collect(); 2]
        });
    });
}
