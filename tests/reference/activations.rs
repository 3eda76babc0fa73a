//! Activation functions against values computed with sixty digits, differences and limits.

use wgpu_batch_norm::Activation;

use super::ACTIVATIONS;

/// t, then value and derivative of SiLU, GELU and its approximation by tanh, each rounded once from sixty digits.
#[rustfmt::skip]
const TABLE: [(f64, [f64; 6]); 18] = [
    (-36.7, [-4.2272562839589275e-15, -4.112072189028166e-15, -1.3401112541288544e-293, -4.918202900507443e-292,
        -0.0, -0.0]),
    (-30.0, [-2.8072868906517896e-12, -2.713710660963134e-12, -1.472014178144456e-196, -4.416031690708495e-195,
        -0.0, -0.0]),
    (-10.0, [-0.00045397868702434395, -0.0004085602086570823, -7.619853024160526e-23, -7.618400096464814e-22,
        -1.204092348209806e-37, -2.7576380638540315e-36]),
    (-5.0, [-0.03346425462142428, -0.02654743242966592, -1.4332578593959695e-06, -7.146946001792295e-06,
        -2.291796196629506e-07, -1.5463619875325946e-06]),
    (-2.5, [-0.18964545005310887, -0.09940111134152683, -0.015524163314440337, -0.03761108590814521,
        -0.015084266089998582, -0.037951576212666184]),
    (-1.999, [-0.23849660323489674, -0.09073410549128469, -0.04558554968838511, -0.08533978293919031,
        -0.04548845910541502, -0.08620712876491256]),
    (-1.25, [-0.27837517353163604, 0.0063191550846875815, -0.13206221708356908, -0.12266158306942213,
        -0.1322857970302854, -0.12249263224964864]),
    (-1.0, [-0.2689414213699951, 0.07232948812851327, -0.15865525393145705, -0.0833154705876863,
        -0.1588080093917233, -0.08296408384578255]),
    (-0.75, [-0.24061597561845527, 0.1574000555032465, -0.16997051428265114, 0.0007742782607648957,
        -0.1700394448343797, 0.0010617438625857023]),
    (-0.001, [-0.0004997500000208334, 0.49950000008333334, -0.000499601057786089, 0.4992021157051586,
        -0.000499601057786418, 0.499202115706475]),
    (-1e-09, [-4.9999999975e-10, 0.4999999995, -4.999999996010577e-10, 0.49999999920211546,
        -4.999999996010577e-10, 0.49999999920211546]),
    (1e-09, [5.000000002500001e-10, 0.5000000005, 5.000000003989423e-10, 0.5000000007978845,
        5.000000003989423e-10, 0.5000000007978845]),
    (0.5, [0.3112296656009273, 0.7399611873026518, 0.34573123063700656, 0.8674951246561629,
        0.34571400982514394, 0.8673699035346423]),
    (1.0, [0.7310585786300049, 0.9276705118714867, 0.8413447460685429, 1.0833154705876864,
        0.8411919906082767, 1.0829640838457826]),
    (1.5, [1.2263617142904655, 1.041294154299143, 1.399789198096713, 1.1274691922299795,
        1.3995715769802328, 1.1277107931514332]),
    (3.0, [2.8577223804672998, 1.0881041060151697, 2.99595030590511, 1.011945647204184,
        2.996362607918227, 1.0115841666309697]),
    (6.0, [5.985164261060191, 1.0123264325915255, 5.999999994080474, 1.0000000354687095,
        5.9999999999156035, 1.0000000007709975]),
    (10.0, [9.999546021312975, 1.000408560208657, 10.0, 1.0,
        10.0, 1.0]),
];

#[test]
fn smooth_activations_have_their_tabulated_values() {
    for (t, row) in TABLE {
        for (activation, pair) in
            [Activation::Silu, Activation::Gelu, Activation::GeluTanh].into_iter().zip(row.chunks(2))
        {
            // An argument of exp counts as many roundings as it is large; 1/2 − Φ loses bits down to t = −2, and a
            // derivative near its zero.
            let exponent = if activation == Activation::GeluTanh { t.abs().max(t.abs().powi(3) * 0.1) } else { 0.0 };
            let relative = 5e-15 + exponent * 5e-16;
            let near_zero = if t.abs() < 3.0 { 3e-16 } else { 0.0 };
            let rows = [(activation.value(t), 0.0), (activation.derivative(t), near_zero)];
            for ((got, absolute), expected) in rows.into_iter().zip(pair) {
                let error = (got - expected).abs();
                let allowed = relative * expected.abs() + absolute;
                assert!(error <= allowed, "{activation} at {t}: {got:e} for {expected:e}, {error:e}");
            }
        }
    }
}

#[test]
fn piecewise_linear_activations_are_their_definitions() {
    let leaky = Activation::LeakyRelu { slope: 0.125 };
    for t in [-1e4, -3.0, -1e-300, -0.0, 0.0, 1e-300, 2.5, 1e4, f64::INFINITY] {
        assert_eq!((Activation::Identity.value(t).to_bits(), Activation::Identity.derivative(t)), (t.to_bits(), 1.0));
        assert_eq!(Activation::Relu.value(t), if t > 0.0 { t } else { 0.0 });
        assert_eq!(Activation::Relu.derivative(t), if t > 0.0 { 1.0 } else { 0.0 });
        assert_eq!(leaky.value(t), if t > 0.0 { t } else { 0.125 * t });
        assert_eq!(leaky.derivative(t), if t > 0.0 { 1.0 } else { 0.125 });
    }
    assert_eq!(Activation::Relu.value(f64::NEG_INFINITY), 0.0);
    assert_eq!(leaky.value(f64::NEG_INFINITY), f64::NEG_INFINITY);
}

#[test]
fn every_derivative_is_the_central_difference_of_its_value() {
    for activation in ACTIVATIONS {
        for step in -800..800 {
            // Off the kink at 0 by more than the step, and on both sides of every change of method.
            let (t, h) = (f64::from(step) * 0.01 + 0.005, 1e-5);
            let expected = (activation.value(t + h) - activation.value(t - h)) / (2.0 * h);
            let error = (activation.derivative(t) - expected).abs();
            assert!(error < 1e-9, "{activation} at {t}: {error:e}");
        }
    }
}

/// GELU changes its method at |t| = 2: the values must not show it.
#[test]
fn gelu_is_the_same_on_both_sides_of_a_change_of_method() {
    for at in [2.0_f64, -2.0] {
        let (inside, outside) = (at - at * f64::EPSILON / 2.0, at);
        let jump = (Activation::Gelu.value(inside) - Activation::Gelu.value(outside)).abs();
        assert!(jump < 1e-15, "{jump:e} at {at}");
    }
}

/// f(t) = t·P(t) with P(t) + P(−t) = 1 for all three, so f(t) − f(−t) is t, and f'(t) + f'(−t) is 1.
#[test]
fn smooth_activations_are_symmetric() {
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh] {
        for step in 0..4000 {
            let t = f64::from(step) * 0.01;
            let sum = activation.value(t) - activation.value(-t);
            assert!((sum - t).abs() <= 4e-16 * t.max(1.0), "{activation} at {t}: {sum}");
            let sum = activation.derivative(t) + activation.derivative(-t);
            assert!((sum - 1.0).abs() < 2e-15, "{activation} at {t}: {sum}");
        }
    }
}

#[test]
fn extremes_are_limits_and_a_nan_stays_a_nan() {
    for activation in ACTIVATIONS {
        assert!(activation.value(f64::NAN).is_nan(), "{activation}");
        for t in [1e4, 1e30, 1e160, f64::MAX, f64::INFINITY] {
            assert_eq!((activation.value(t), activation.derivative(t)), (t, 1.0), "{activation} at {t:e}");
            let below = match activation {
                Activation::Identity => (-t, 1.0),
                Activation::LeakyRelu { slope } => (-slope * t, slope),
                _ => (0.0, 0.0),
            };
            assert_eq!((activation.value(-t), activation.derivative(-t)), below, "{activation} at −{t:e}");
        }
        for zero in [0.0, -0.0] {
            assert_eq!(activation.value(zero), 0.0, "{activation}");
        }
        if activation.is_piecewise_linear() {
            assert_eq!(activation.derivative(f64::NAN), 1.0);
        } else {
            assert_eq!(activation.derivative(0.0), 0.5);
            assert!(activation.derivative(f64::NAN).is_nan());
        }
    }
}
