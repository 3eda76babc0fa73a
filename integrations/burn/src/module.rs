//! The module and its configuration.

use std::f64::consts::FRAC_1_SQRT_2;

use burn::backend::Dispatch;
use burn::config::Config;
use burn::module::{Content, DisplaySettings, Flag, Module, ModuleDisplay, Param, RunningState};
use burn::tensor::{DType, Device, Tensor, activation};

use crate::connection;
use crate::memory::Order;
use crate::ops::{BatchNormOps, Inputs, Optional};
use crate::ranks::Synchronised;
use crate::settings::Settings;
use crate::{Activation, Error, Ranks, RunningVariance, Unserved};

/// Configures a [`BatchNorm`]: what Burn's `BatchNormConfig` has, and what it has not.
///
/// ```no_run
/// use burn_wgpu_batch_norm::{Activation, BatchNormConfig, RunningVariance, init};
/// let device = init()?.autodiff();
/// let norm = BatchNormConfig::new(64)
///     .with_running_variance(RunningVariance::Unbiased) // as PyTorch
///     .with_activation(Activation::Relu)
///     .init(&device);
/// # Ok::<(), burn_wgpu_batch_norm::InitError>(())
/// ```
#[derive(Config, Debug)]
pub struct BatchNormConfig {
    /// The channel count C. Must be greater than zero.
    pub num_features: usize,
    /// Added to the variance inside the square root; finite and positive. Default: 1e-5
    #[config(default = 1e-5)]
    pub epsilon: f64,
    /// The weight of the new batch in the running statistics, within `[0, 1]`. Default: 0.1
    #[config(default = 0.1)]
    pub momentum: f64,
    /// Which variance the running variance takes. Default: the population variance, as Burn's module
    #[config(default = "RunningVariance::Population")]
    pub running_variance: RunningVariance,
    /// What follows, fused into forward and backward. Default: nothing
    #[config(default = "Activation::Identity")]
    pub activation: Activation,
}

impl BatchNormConfig {
    /// A module with gamma 1, beta 0, running mean 0 and running variance 1.
    ///
    /// # Panics
    /// As Burn's module: if `num_features` is zero, `epsilon` not finite and positive, or `momentum` not within `[0, 1]`; and if
    /// the slope of a leaky ReLU is negative or not finite.
    #[must_use]
    pub fn init(&self, device: &Device) -> BatchNorm {
        if let Activation::LeakyRelu { slope } = self.activation {
            assert!(slope >= 0.0 && (slope as f32).is_finite(), "slope must be finite and not negative.");
        }
        let base = burn::nn::BatchNormConfig::new(self.num_features)
            .with_epsilon(self.epsilon)
            .with_momentum(self.momentum)
            .init(device);
        BatchNorm { running_variance: self.running_variance, activation: self.activation, ..BatchNorm::from_burn(base) }
    }
}

/// Batch normalization over every dimension of `[N, C, ...]` but C, in training and inference.
///
/// ```text
/// y = f(γ·(x − μ)/√(v + ε) + β + z)
/// running ← (1 − momentum)·running + momentum·batch
/// ```
///
/// A module of Burn's with the fields, records and behaviour of Burn's own `BatchNorm`: it trains on an autodiff device unless it
/// is frozen, and uses the running statistics anywhere else; gradients then go through those as constants. The activation f is
/// the configuration's, the residual z that of [`BatchNorm::forward_residual`].
///
/// On a wgpu device that was connected ([`init`](crate::init), [`connect`](crate::connect)) forward and backward are kernels of
/// `wgpu-batch-norm` on Burn's own buffers; anywhere else they are Burn's operations, with the same results within rounding.
#[derive(Module, Debug)]
#[module(custom_display)]
pub struct BatchNorm {
    /// γ, `[C]`.
    pub gamma: Param<Tensor<1>>,
    /// β, `[C]`.
    pub beta: Param<Tensor<1>>,
    /// Whether the module trains on an autodiff device; frozen modules do not.
    pub training: Param<Flag>,
    /// The running mean, `[C]`.
    pub running_mean: RunningState<Tensor<1>>,
    /// The running variance, `[C]`.
    pub running_var: RunningState<Tensor<1>>,
    /// The weight of the new batch in the running statistics.
    pub momentum: f64,
    /// Added to the variance inside the square root.
    pub epsilon: f64,
    /// Which variance the running variance takes.
    #[module(skip)]
    pub running_variance: RunningVariance,
    /// What follows.
    #[module(skip)]
    pub activation: Activation,
    /// The ranks that have the rest of every batch.
    #[module(skip)]
    synchronised: Option<Synchronised>,
}

impl BatchNorm {
    /// Takes over Burn's module: its parameters with their ids, its statistics and its mode.
    #[must_use]
    pub fn from_burn(module: burn::nn::BatchNorm) -> Self {
        Self {
            gamma: module.gamma,
            beta: module.beta,
            training: module.training,
            running_mean: module.running_mean,
            running_var: module.running_var,
            momentum: module.momentum,
            epsilon: module.epsilon,
            running_variance: RunningVariance::Population,
            activation: Activation::Identity,
            synchronised: None,
        }
    }

    /// Trains on one batch over the ranks of a job, each of which has a share of it: statistics and dL/dx are those of the whole
    /// batch, exact as `wgpu-batch-norm` has it. Gradients of parameters, γ and β among them, are those of this rank's
    /// share, to be summed over ranks as a data-parallel program sums them all. Inference is as ever.
    ///
    /// All ranks must call the same forwards and backwards in the same order; what they disagree on is an error on all of them.
    /// Each forward in training and each backward waits for the device and for the other ranks, on the thread of Burn's runtime,
    /// so ranks in one process need devices of their own.
    ///
    /// ```no_run
    /// # use wgpu_batch_norm::exchange::{Collective, gather_with};
    /// # fn collective() -> impl Collective + Send + 'static { gather_with(0, 1, |_: &mut [f32]| Ok(())) }
    /// use burn_wgpu_batch_norm::{BatchNormConfig, Ranks, init};
    /// let device = init()?.autodiff();
    /// let ranks = Ranks::new(collective()); // `wgpu_batch_norm::exchange::MpiCollective`, say
    /// let norm = BatchNormConfig::new(64).init(&device).with_ranks(&ranks);
    /// # Ok::<(), burn_wgpu_batch_norm::InitError>(())
    /// ```
    ///
    /// # Panics
    /// Forward and backward in training panic where the exchange fails, since Burn's operations have no way to return that; with
    /// fusion, where a result is read, if not by `try_into_data`. Running statistics of the module are lost then, and layers before
    /// it have updated theirs: load a record. They also panic where the kernels do not serve the tensor, for Burn's own
    /// operations know nothing of other ranks, and on a share without elements ([`Error::EmptyShare`]); the other ranks are not told
    /// then, and learn it from their collective's timeout.
    #[must_use]
    pub fn with_ranks(self, ranks: &Ranks) -> Self {
        Self { synchronised: Some(Synchronised::new(ranks)), ..self }
    }

    /// Burn's module with the same parameters, statistics and mode. It has no activation and no ranks, and puts the population
    /// variance into the running variance.
    #[must_use]
    pub fn into_burn(self) -> burn::nn::BatchNorm {
        burn::nn::BatchNorm {
            gamma: self.gamma,
            beta: self.beta,
            training: self.training,
            running_mean: self.running_mean,
            running_var: self.running_var,
            momentum: self.momentum,
            epsilon: self.epsilon,
        }
    }

    /// `f(batch norm of x)`, of x's shape `[N, C, ...]`. A batch without elements is returned as it is.
    ///
    /// # Panics
    /// As Burn's module, where the input's rank is below 2 or its second dimension not C; and for every other [`Error`] but
    /// [`Error::Unserved`], for which it goes on with Burn's operations.
    #[must_use]
    pub fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        self.run(input, None)
    }

    /// `f(batch norm of x + z)`, with a residual z of x's shape: the sum and the activation cost no pass of their own.
    ///
    /// # Panics
    /// As [`BatchNorm::forward`], and where the shapes differ.
    #[must_use]
    pub fn forward_residual<const D: usize>(&self, input: Tensor<D>, residual: Tensor<D>) -> Tensor<D> {
        self.run(input, Some(residual))
    }

    /// As [`BatchNorm::forward`] and, with a residual, [`BatchNorm::forward_residual`], but never by Burn's operations and
    /// without a panic for what the arguments are.
    ///
    /// # Errors
    /// What is refused, and what the kernels do not serve.
    pub fn try_forward<const D: usize>(
        &self,
        input: Tensor<D>,
        residual: Option<Tensor<D>>,
    ) -> Result<Tensor<D>, Error> {
        let trains = self.check(&input, residual.as_ref())?;
        if input.shape().num_elements() == 0 {
            return if trains && self.synchronised.is_some() { Err(Error::EmptyShare) } else { Ok(input) };
        }
        self.served(&input)?;
        Ok(self.kernels(input, residual, trains))
    }

    /// Whether the kernels serve a tensor, and if not, why. [`BatchNorm::forward`] uses Burn's operations then.
    ///
    /// # Errors
    /// The reason.
    pub fn served<const D: usize>(&self, input: &Tensor<D>) -> Result<(), Unserved> {
        let engine = connection::engine(&input.device())?;
        for parameter in [self.gamma.val(), self.beta.val(), self.running_mean.value(), self.running_var.value()] {
            match parameter.dtype() {
                DType::F32 => {}
                other => return Err(Unserved::ParameterType(other)),
            }
        }
        engine.plan(&input.dims(), input.dtype(), Order::ChannelsFirst, &self.settings()).map(drop)
    }

    fn run<const D: usize>(&self, input: Tensor<D>, residual: Option<Tensor<D>>) -> Tensor<D> {
        let trains = match self.check(&input, residual.as_ref()) {
            Ok(trains) => trains,
            Err(error) => panic!("{error}"),
        };
        if trains && self.synchronised.is_some() {
            return self.try_forward(input, residual).unwrap_or_else(|error| panic!("{error}"));
        }
        if input.shape().num_elements() == 0 {
            return input;
        }
        match self.served(&input) {
            Ok(()) => self.kernels(input, residual, trains),
            Err(reason) => {
                connection::log_once(&reason);
                self.operations(input, residual, trains)
            }
        }
    }

    fn settings(&self) -> Settings {
        Settings {
            epsilon: self.epsilon,
            momentum: self.momentum,
            running_variance: self.running_variance,
            activation: self.activation,
            synchronised: self.synchronised.clone(),
        }
    }

    /// Whether a forward trains, if it can be done at all.
    fn check<const D: usize>(&self, input: &Tensor<D>, residual: Option<&Tensor<D>>) -> Result<bool, Error> {
        let [channels] = self.gamma.shape().dims();
        if D < 2 {
            return Err(Error::Rank { rank: D });
        }
        let dims = input.dims();
        if dims[1] != channels {
            return Err(Error::Channels { expected: channels, actual: dims[1] });
        }
        let device = input.device();
        if let Some(residual) = residual {
            if residual.dims() != dims {
                return Err(Error::ResidualShape { input: dims.to_vec(), residual: residual.dims().to_vec() });
            }
            if residual.device().inner() != device.clone().inner() {
                return Err(Error::Devices);
            }
        }
        if self.gamma.val().device().inner() != device.clone().inner() {
            return Err(Error::Devices);
        }
        let trains = device.is_autodiff() && self.training.is_enabled();
        let one = dims.iter().product::<usize>() == channels;
        if trains && one && self.synchronised.is_none() && self.running_variance == RunningVariance::Unbiased {
            return Err(Error::OneSample);
        }
        Ok(trains)
    }

    /// Forward by kernels, recorded as one node of the graph.
    fn kernels<const D: usize>(&self, input: Tensor<D>, residual: Option<Tensor<D>>, trains: bool) -> Tensor<D> {
        let device = input.device();
        let (mean, variance) = match trains {
            true => (self.running_mean.value_sync(), self.running_var.value_sync()),
            false => (self.running_mean.value(), self.running_var.value()),
        };
        let inputs = Inputs::<Dispatch> {
            input: input.into_dispatch(),
            residual: residual.map_or(Optional::Absent, |residual| Optional::Present(residual.into_dispatch())),
            gamma: self.gamma.val().into_dispatch(),
            beta: self.beta.val().into_dispatch(),
            running_mean: mean.to_device(&device).into_dispatch(),
            running_variance: variance.to_device(&device).into_dispatch(),
        };
        if !trains {
            return Tensor::from_dispatch(Dispatch::wgpu_batch_norm_inference(inputs, self.settings()));
        }
        let trained = Dispatch::wgpu_batch_norm_training(inputs, self.settings());
        self.running_mean.update(Tensor::from_dispatch(trained.running_mean).detach());
        self.running_var.update(Tensor::from_dispatch(trained.running_variance).detach());
        Tensor::from_dispatch(trained.output)
    }

    /// Forward by Burn's operations.
    fn operations<const D: usize>(&self, input: Tensor<D>, residual: Option<Tensor<D>>, trains: bool) -> Tensor<D> {
        let device = input.device();
        let dims = input.dims();
        let (gamma, beta) = (self.gamma.val(), self.beta.val());
        let normalized = if trains {
            let result = burn::tensor::module::batch_norm_train(input, gamma, beta, self.epsilon);
            let count = dims.iter().product::<usize>() / dims[1];
            let factor = match self.running_variance {
                RunningVariance::Unbiased => count as f64 / (count as f64 - 1.0),
                RunningVariance::Population => 1.0,
            };
            let updates = [(&self.running_mean, result.mean, 1.0), (&self.running_var, result.variance, factor)];
            for (state, batch, factor) in updates {
                let old = state.value_sync().to_device(&device).mul_scalar(1.0 - self.momentum);
                state.update(old.add(batch.detach().mul_scalar(self.momentum * factor)).detach());
            }
            result.output
        } else {
            let mean = self.running_mean.value().to_device(&device);
            let variance = self.running_var.value().to_device(&device);
            burn::tensor::module::batch_norm(input, gamma, beta, mean, variance, self.epsilon)
        };
        let sum = match residual {
            Some(residual) => normalized.add(residual),
            None => normalized,
        };
        match self.activation {
            Activation::Identity => sum,
            Activation::Relu => activation::relu(sum),
            Activation::LeakyRelu { slope } => activation::leaky_relu(sum, slope),
            Activation::Silu => activation::silu(sum),
            // Burn's own GELU has the derivative of the approximation by tanh.
            Activation::Gelu => sum.clone() * (sum * FRAC_1_SQRT_2).erf().add_scalar(1.0).mul_scalar(0.5),
        }
    }
}

impl ModuleDisplay for BatchNorm {
    fn custom_settings(&self) -> Option<DisplaySettings> {
        DisplaySettings::new().with_new_line_after_attribute(false).optional()
    }

    fn custom_content(&self, content: Content) -> Option<Content> {
        let [num_features] = self.beta.shape().dims();
        content
            .add("num_features", &num_features)
            .add("momentum", &self.momentum)
            .add("epsilon", &self.epsilon)
            .add_debug_attribute("running_variance", &self.running_variance)
            .add_debug_attribute("activation", &self.activation)
            .optional()
    }
}
