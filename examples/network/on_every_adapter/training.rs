use super::{compare, everywhere, noise, random};
use crate::network::feed::Feed;
use crate::network::optimizer::{Method, Optimizer};
use crate::network::tape::Tape;
use crate::network::tensor::Parameter;

/// The mean loss of rows of logits.
fn loss(logits: &[f64], labels: &[u32], classes: usize) -> f64 {
    let row = |(row, &label): (&[f64], &u32)| row.iter().map(|x| x.exp()).sum::<f64>().ln() - row[label as usize];
    logits.chunks(classes).zip(labels).map(row).sum::<f64>() / labels.len() as f64
}

#[test]
fn softmax_cross_entropy_has_its_gradient_and_counts() {
    everywhere(|context| {
        let (rows, classes) = (70, 5);
        let labels: Vec<u32> = (0..rows).map(|row| row * 3 % 5).collect();
        let mut tape = Tape::new(context);
        let logits = tape.tensor("logits", &[rows as usize, classes]);
        let scores = tape.softmax_cross_entropy(&logits, &context.upload("labels", &labels));
        let program = tape.finish().unwrap();
        let values = noise(&mut random(), logits.len());
        context.write(&logits.values, &values);
        // Twice: scores add up.
        context.gpu.submit(|pass| {
            program.record(pass);
            program.record(pass);
        });
        let wide: Vec<f64> = values.iter().copied().map(f64::from).collect();
        let metrics = scores.take(context, 2);
        approx::assert_relative_eq!(metrics.loss, loss(&wide, &labels, classes), max_relative = 1e-6);
        let largest = |row: &[f64]| (0..classes).max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
        let right = wide.chunks(classes).zip(&labels).filter(|(row, label)| largest(row) == **label as usize).count();
        assert!(right > 0 && right < rows as usize);
        approx::assert_relative_eq!(metrics.accuracy, right as f64 / f64::from(rows), max_relative = 1e-12);
        assert_eq!(scores.take(context, 2).loss, 0.0, "taken is taken");
        let gradient = |element: usize| {
            let mut moved = wide.clone();
            let mut at = |value: f64| {
                moved[element] = value;
                loss(&moved, &labels, classes)
            };
            (at(wide[element] + 1e-5) - at(wide[element] - 1e-5)) / 2e-5
        };
        let expected: Vec<f64> = (0..wide.len()).map(gradient).collect();
        compare("gradient of logits", &context.read(logits.gradient.as_ref().unwrap()), &expected);
    });
}

#[test]
fn optimisers_follow_their_formulas() {
    everywhere(|context| {
        let mut random = random();
        for method in [Method::Sgd { momentum: 0.0 }, Method::Sgd { momentum: 0.9 }, Method::Adam] {
            let parameters = [Parameter::new(context, "a", 70), Parameter::new(context, "b", 3)];
            let optimizer = Optimizer::new(context, method, 0.5, parameters.clone());
            let start: Vec<Vec<f32>> = parameters.iter().map(|p| noise(&mut random, p.values.len)).collect();
            // Forgotten, so that the second round goes as the first; and the learning rate can be changed.
            for _ in 0..2 {
                let mut expected: Vec<Vec<[f64; 3]>> =
                    start.iter().map(|values| values.iter().map(|&p| [f64::from(p), 0.0, 0.0]).collect()).collect();
                for (parameter, values) in parameters.iter().zip(&start) {
                    context.write(&parameter.values, values);
                }
                for step in 1..=4 {
                    let learning_rate = if step < 3 { 0.5 } else { 0.125 };
                    optimizer.set_learning_rate(context, learning_rate as f32);
                    for (parameter, expected) in parameters.iter().zip(&mut expected) {
                        let gradient = noise(&mut random, parameter.values.len);
                        context.write(&parameter.gradient, &gradient);
                        for (state, g) in expected.iter_mut().zip(gradient) {
                            update(state, f64::from(g), method, learning_rate, step);
                        }
                    }
                    context.gpu.submit(|pass| optimizer.record(pass));
                }
                for (parameter, expected) in parameters.iter().zip(&expected) {
                    let expected: Vec<f64> = expected.iter().map(|state| state[0]).collect();
                    compare(&format!("{method:?}"), &context.read(&parameter.values), &expected);
                }
                optimizer.reset(context);
            }
        }
    });
}

fn update([p, m, v]: &mut [f64; 3], g: f64, method: Method, learning_rate: f64, step: i32) {
    match method {
        Method::Sgd { momentum } => {
            *m = f64::from(momentum) * *m + g;
            *p -= learning_rate * *m;
        }
        Method::Adam => {
            *m = 0.9 * *m + 0.1 * g;
            *v = 0.999 * *v + 0.001 * g * g;
            let (m, v) = (*m / (1.0 - 0.9_f64.powi(step)), *v / (1.0 - 0.999_f64.powi(step)));
            *p -= learning_rate * m / (v.sqrt() + 1e-8);
        }
    }
}

#[test]
fn every_step_is_fed_its_own_batch() {
    everywhere(|context| {
        let (samples, batch_size, steps, width) = (23, 5, 3, 7);
        let values: Vec<u32> = (0..samples * steps as u32 * width as u32).collect();
        let labels: Vec<u32> = (0..samples).map(|sample| 1000 + sample).collect();
        let (values, labels) = (context.upload("values", &values), context.upload("labels", &labels));
        let mut feed = Feed::new(context, batch_size);
        let (rows, flat, named) =
            (feed.add_steps(&values, steps, width), feed.add(&values, steps * width), feed.add(&labels, 1));
        let chosen: Vec<u32> = (0..feed.max_steps() * batch_size).map(|index| index as u32 * 7 % samples).collect();
        for upto in [feed.max_steps(), 1, 2] {
            let chosen = &chosen[..upto * batch_size];
            let counted = std::cell::Cell::new(0);
            feed.run(chosen, |_| counted.set(counted.get() + 1));
            assert_eq!(counted.get(), upto);
            let last = &chosen[(upto - 1) * batch_size..];
            assert_eq!(context.read::<u32>(&named), last.iter().map(|sample| 1000 + sample).collect::<Vec<_>>());
            let word = |sample: u32, step: usize, column: usize| (sample as usize * steps + step) * width + column;
            let (gathered, whole) = (context.read::<u32>(&rows), context.read::<u32>(&flat));
            for (row, &sample) in last.iter().enumerate() {
                for step in 0..steps {
                    for column in 0..width {
                        let expected = word(sample, step, column) as u32;
                        assert_eq!(gathered[(step * batch_size + row) * width + column], expected);
                        assert_eq!(whole[(row * steps + step) * width + column], expected);
                    }
                }
            }
        }
    });
}
