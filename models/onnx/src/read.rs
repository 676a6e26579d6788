//! Takes the parameters out of an ONNX file of ours: owns recognition, never runs anything.
//!
//! A graph is ours if it is what [`crate::build`] makes of the parameters that lie in it, node for node. So there is one
//! description of every graph, the one that builds it; a graph that differs in anything is somebody else's.

use std::collections::BTreeMap;

use prost::Message;
use tract_onnx::pb::{ModelProto, TensorProto, tensor_shape_proto::dimension, type_proto};

use crate::ensemble::{DecoderParams, EnsembleParams, Spread};
use crate::ensemble_graph::{decoder_prefix, season_name};
use crate::graph::{F32, F64, I64, index};
use crate::models::{self, CLASSIC, DEFAULT, INPUT_FUTURE, INPUT_WINDOW, QUANTILES};
use crate::params::{
    ClassicParams, DefaultParams, LinearParams, LstmHead, LstmParams, ModelParams,
    SeasonalNaiveParams,
};

/// Why a file is not one that this program builds; it may still be a valid model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("recognising the graph: {0}; it runs as any other ONNX graph does")]
pub struct NotOurs(String);

/// The parameters of a model that [`crate::build`] has built, equal to those it was given.
///
/// # Errors
/// [`NotOurs`] for every file whose graph differs in anything from what `build` makes of the parameters in it.
pub fn read(onnx: &[u8]) -> Result<ModelParams, NotOurs> {
    let file = ModelProto::decode(onnx).map_err(|e| NotOurs(e.to_string()))?;
    let params = Parts::of(&file)?.params()?;
    // Its tensors are as large as those of the file, which bounds what building costs.
    let graph = models::graph(&params).map_err(|e| NotOurs(e.to_string()))?;
    let again = graph.model(&[]);
    if again.graph != file.graph {
        return Err(NotOurs(
            "its nodes are not those of a model of this version".into(),
        ));
    }
    if again.opset_import != file.opset_import || again.ir_version != file.ir_version {
        return Err(NotOurs("it is of another operator set".into()));
    }
    Ok(params)
}

/// A size that can be multiplied with another one.
fn size(n: i64) -> Option<usize> {
    usize::try_from(n).ok().filter(|n| *n < 1 << 15)
}

/// What of a file holds parameters.
struct Parts<'a> {
    doc: &'a str,
    tensors: BTreeMap<&'a str, &'a TensorProto>,
    /// Sizes of `window` and `future` after the batch.
    window: [usize; 2],
    future: [usize; 2],
    quantiles: Vec<f64>,
}

impl<'a> Parts<'a> {
    fn of(file: &'a ModelProto) -> Result<Self, NotOurs> {
        let missing = |what: &str| NotOurs(format!("{what} is missing"));
        let graph = file.graph.as_ref().ok_or_else(|| missing("its graph"))?;
        let input = |name: &str| -> Option<[usize; 2]> {
            let info = graph.input.iter().find(|i| i.name == name)?;
            let Some(type_proto::Value::TensorType(tensor)) = info.r#type.as_ref()?.value.as_ref()
            else {
                return None;
            };
            let dim = |i: usize| match tensor.shape.as_ref()?.dim.get(i)?.value {
                Some(dimension::Value::DimValue(n)) => size(n),
                _ => None,
            };
            Some([dim(1)?, dim(2)?])
        };
        let levels = file.metadata_props.iter().find(|p| p.key == QUANTILES);
        let levels = levels.ok_or_else(|| missing("the property `quantiles`"))?;
        let quantiles = levels.value.split(',').map(str::parse);
        Ok(Self {
            doc: &graph.doc_string,
            tensors: graph
                .initializer
                .iter()
                .map(|t| (t.name.as_str(), t))
                .collect(),
            window: input(INPUT_WINDOW).ok_or_else(|| missing("the input `window`"))?,
            future: input(INPUT_FUTURE).ok_or_else(|| missing("the input `future`"))?,
            quantiles: quantiles
                .collect::<Result<_, _>>()
                .map_err(|_| NotOurs("the property `quantiles` is no list of numbers".into()))?,
        })
    }

    fn params(&self) -> Result<ModelParams, NotOurs> {
        // Tensors of these lengths are in the file, so nothing that is made of the sizes is larger than it.
        let lookback = size(index(self.f32s("position")?.len()));
        let lookback = lookback.ok_or_else(|| NotOurs("its window is too long".into()))?;
        match self.doc {
            CLASSIC => self.classic(lookback).map(ModelParams::Classic),
            DEFAULT => self.default(lookback).map(ModelParams::Default),
            models::ENSEMBLE => self.ensemble(lookback).map(ModelParams::Ensemble),
            models::SEASONAL_NAIVE => {
                let naive = self.seasonal_naive(lookback);
                naive.map(ModelParams::SeasonalNaive)
            }
            _ => Err(NotOurs(
                "its description is not that of a model of this version".into(),
            )),
        }
    }

    fn classic(&self, lookback: usize) -> Result<ClassicParams, NotOurs> {
        let x_min = self.f64s("x_min")?;
        Ok(ClassicParams {
            lookback,
            future_width: self.future[1],
            lstm: self.lstm("", x_min.len())?,
            x_min,
            x_max: self.f64s("x_max")?,
            y_min: self.number("y_min")?,
            y_max: self.number("y_max")?,
            head: self.linear("head")?,
            quantiles: self.quantiles.clone(),
            quantile_offset: self.f64s("quantile_offset")?,
        })
    }

    fn default(&self, lookback: usize) -> Result<DefaultParams, NotOurs> {
        let highway = self.linear("highway")?;
        let inputs = self.window[1];
        let lstm = if self.tensors.contains_key("lstm_w") {
            let width = self.integer("segment_shape", 2)?;
            Some(LstmHead {
                segment: width / inputs.max(1),
                lstm: self.lstm("", width)?,
                head: self.linear("lstm_head")?,
            })
        } else {
            None
        };
        Ok(DefaultParams {
            lookback,
            inputs,
            horizon: highway.output,
            future_width: self.future[1],
            target_input: self.integer("dev_y_wide_index", 0)?,
            train_dev: self.f64s("train_dev")?,
            highway,
            future_weight: self.future_weight("future_weight")?,
            lstm,
            quantiles: self.quantiles.clone(),
            quantile_offset: self.f32s("quantile_offset")?,
        })
    }

    fn ensemble(&self, lookback: usize) -> Result<EnsembleParams, NotOurs> {
        let highway = self.linear("highway")?;
        let inputs = self.window[1];
        let lags = if self.tensors.contains_key("lags_at") {
            self.positions("lags_at")?
        } else {
            Vec::new()
        };
        let decoders = (0..).map(decoder_prefix);
        let decoders =
            decoders.take_while(|of| self.tensors.contains_key(&*format!("{of}segment_shape")));
        let seasons = (0..).map(|i| format!("{}_at", season_name(i)));
        let seasons = seasons.take_while(|name| self.tensors.contains_key(&**name));
        let season = |name: String| {
            let first = self.positions(&name)?.first().copied();
            let first = first.ok_or_else(|| NotOurs(format!("`{name}` is empty")))?;
            Ok(lookback.saturating_sub(first / inputs.max(1)))
        };
        Ok(EnsembleParams {
            lookback,
            inputs,
            horizon: highway.output,
            future_width: self.future[1],
            target_input: self.integer("dev_y_wide_index", 0)?,
            train_dev: self.f64s("train_dev")?,
            highway,
            future_weight: self.future_weight("future_weight")?,
            decoders: decoders
                .map(|of| self.decoder(&of, !lags.is_empty()))
                .collect::<Result<_, _>>()?,
            lags,
            seasons: seasons.map(season).collect::<Result<_, _>>()?,
            mean_share: self.f32s("mean_share")?,
            median_share: self.f32s("median_share")?,
            spread: Spread {
                weight: self.future_weight("spread_weight")?,
                bias: self.f32s("spread_bias")?,
                power: self.narrow("spread_power")?,
                usual: self.narrow("spread_usual")?,
            },
            quantiles: self.quantiles.clone(),
            quantile_offset: self.f32s("quantile_offset")?,
        })
    }

    fn decoder(&self, of: &str, lags: bool) -> Result<DecoderParams, NotOurs> {
        let named = |name: &str| format!("{of}{name}");
        let width = self.integer(&named("segment_shape"), 2)?;
        Ok(DecoderParams {
            segment: width / self.window[1].max(1),
            lstm: self.lstm(of, width)?,
            state: self.linear(&named("state"))?,
            known_weight: self.future_weight(&named("known_weight"))?,
            lag_weight: if lags {
                self.f32s(&named("lag_weight"))?
            } else {
                Vec::new()
            },
            step: self.f32s(&named("step"))?,
            out: self.f32s(&named("out"))?,
            out_bias: self.f32s(&named("out_bias"))?,
        })
    }

    /// Weights of the known-future values, which are only there where such values are.
    fn future_weight(&self, name: &str) -> Result<Vec<f32>, NotOurs> {
        if self.future[1] > 0 {
            self.f32s(name)
        } else {
            Ok(Vec::new())
        }
    }

    fn seasonal_naive(&self, lookback: usize) -> Result<SeasonalNaiveParams, NotOurs> {
        let first = self.integer("season_steps", 0)?;
        Ok(SeasonalNaiveParams {
            lookback,
            inputs: self.window[1],
            horizon: self.integers("season_steps")?.len(),
            future_width: self.future[1],
            target_input: self.integer("target_index", 0)?,
            season: lookback.saturating_sub(first),
            quantiles: self.quantiles.clone(),
            quantile_offset: self.f64s("quantile_offset")?,
        })
    }

    /// `prefix` is what the names of its tensors begin with.
    fn lstm(&self, prefix: &str, input: usize) -> Result<LstmParams, NotOurs> {
        let bias = self.f32s(&format!("{prefix}lstm_b"))?;
        let hidden = bias.len() / 8;
        let (b_ih, b_hh) = bias.split_at(4 * hidden);
        let rows = |name: &str, width: usize| -> Result<Vec<f32>, NotOurs> {
            let stacked = self.f32s(&format!("{prefix}{name}"))?;
            if hidden.checked_mul(4 * width) == Some(stacked.len()) {
                Ok(models::ifgo(&stacked, hidden * width))
            } else {
                Err(NotOurs(format!("`{name}` has another size")))
            }
        };
        if b_hh.len() != b_ih.len() {
            return Err(NotOurs("`lstm_b` has another size".into()));
        }
        Ok(LstmParams {
            input,
            hidden,
            w_ih: rows("lstm_w", input)?,
            w_hh: rows("lstm_r", hidden)?,
            b_ih: models::ifgo(b_ih, hidden),
            b_hh: models::ifgo(b_hh, hidden),
        })
    }

    fn linear(&self, name: &str) -> Result<LinearParams, NotOurs> {
        let weight = self.f32s(&format!("{name}_weight"))?;
        let bias = self.f32s(&format!("{name}_bias"))?;
        Ok(LinearParams {
            input: weight.len() / bias.len().max(1),
            output: bias.len(),
            weight,
            bias,
        })
    }

    fn number(&self, name: &str) -> Result<f64, NotOurs> {
        let found = self.f64s(name)?;
        let found = found.first().copied();
        found.ok_or_else(|| NotOurs(format!("`{name}` is empty")))
    }

    fn narrow(&self, name: &str) -> Result<f32, NotOurs> {
        let found = self.f32s(name)?.first().copied();
        found.ok_or_else(|| NotOurs(format!("`{name}` is empty")))
    }

    /// Places among the values of a window, which may be more than a size.
    fn positions(&self, name: &str) -> Result<Vec<usize>, NotOurs> {
        let found = self.integers(name)?.into_iter().map(usize::try_from);
        let found = found.collect::<Result<_, _>>();
        found.map_err(|_| NotOurs(format!("`{name}` holds no positions")))
    }

    fn integer(&self, name: &str, at: usize) -> Result<usize, NotOurs> {
        let found = self.integers(name)?;
        let found = found.get(at).and_then(|n| size(*n));
        found.ok_or_else(|| NotOurs(format!("`{name}` holds no size")))
    }

    fn f32s(&self, name: &str) -> Result<Vec<f32>, NotOurs> {
        self.values(name, F32, f32::from_le_bytes)
    }

    fn f64s(&self, name: &str) -> Result<Vec<f64>, NotOurs> {
        self.values(name, F64, f64::from_le_bytes)
    }

    fn integers(&self, name: &str) -> Result<Vec<i64>, NotOurs> {
        self.values(name, I64, i64::from_le_bytes)
    }

    fn values<T, const N: usize>(
        &self,
        name: &str,
        element: i32,
        value: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, NotOurs> {
        let tensor = self
            .tensors
            .get(name)
            .ok_or_else(|| NotOurs(format!("the tensor `{name}` is missing")))?;
        let (values, rest) = tensor.raw_data.as_chunks::<N>();
        let length = tensor.dims.iter().try_fold(1_i64, |n, d| n.checked_mul(*d));
        if tensor.data_type != element || !rest.is_empty() || length != Some(index(values.len())) {
            return Err(NotOurs(format!("the tensor `{name}` is of another kind")));
        }
        Ok(values.iter().map(|v| value(*v)).collect())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn lstm(input: usize, hidden: usize) -> LstmParams {
        let values = |n: usize, from: f32| (0..n).map(|i| from + i as f32).collect();
        LstmParams {
            input,
            hidden,
            w_ih: values(4 * hidden * input, 0.5),
            w_hh: values(4 * hidden * hidden, 1000.5),
            b_ih: values(4 * hidden, 0.25),
            b_hh: values(4 * hidden, -7.0),
        }
    }

    fn linear(input: usize, output: usize) -> LinearParams {
        LinearParams {
            input,
            output,
            weight: (0..input * output).map(|i| i as f32).collect(),
            bias: (0..output).map(|i| -(i as f32)).collect(),
        }
    }

    fn highway() -> DefaultParams {
        DefaultParams {
            lookback: 6,
            inputs: 3,
            horizon: 2,
            future_width: 1,
            target_input: 1,
            train_dev: vec![0.1, 1e-12, 7.0 / 3.0],
            highway: linear(18, 2),
            future_weight: vec![0.3, 0.4],
            lstm: Some(LstmHead {
                segment: 2,
                lstm: lstm(6, 5),
                head: linear(5, 2),
            }),
            quantiles: vec![0.05, 1.0 / 3.0],
            quantile_offset: vec![-0.1, 0.1, -0.2, 0.2],
        }
    }

    fn ensemble() -> EnsembleParams {
        let DefaultParams {
            train_dev,
            highway,
            future_weight,
            quantiles,
            quantile_offset,
            ..
        } = highway();
        let values = |n: usize, from: f32| (0..n).map(|i| from + i as f32).collect();
        let decoder = |segment: usize, hidden: usize, units: usize| DecoderParams {
            segment,
            lstm: lstm(segment * 3, hidden),
            state: linear(hidden, units),
            known_weight: values(units, 0.75),
            lag_weight: values(units * 2, 30.5),
            step: values(units * 2, 0.3),
            out: values(units * 2, -9.1),
            out_bias: values(2, 3.3),
        };
        EnsembleParams {
            lookback: 6,
            inputs: 3,
            horizon: 2,
            future_width: 1,
            target_input: 1,
            train_dev,
            highway,
            future_weight,
            lags: vec![17, 0, 4, 9],
            decoders: vec![decoder(2, 5, 4), decoder(6, 2, 3)],
            seasons: vec![4, 6, 1],
            mean_share: values(12, 0.1),
            median_share: values(12, -0.7),
            spread: Spread {
                weight: vec![1.0 / 3.0],
                bias: vec![0.1, -0.2],
                power: -0.4,
                usual: 1e-3,
            },
            quantiles,
            quantile_offset,
        }
    }

    #[test]
    fn what_was_built_is_read_back() {
        let mut few = ensemble();
        few.decoders.truncate(1);
        few.decoders[0].known_weight.clear();
        few.decoders[0].lag_weight.clear();
        (few.future_width, few.lags, few.seasons) = (0, vec![], vec![]);
        (few.future_weight, few.spread.weight) = (vec![], vec![]);
        few.mean_share.truncate(4);
        few.median_share.truncate(4);
        let mut none = ensemble();
        none.decoders.clear();
        none.lags.clear();
        none.mean_share.truncate(8);
        none.median_share.truncate(8);
        let with_lstm = highway();
        let mut ridge = highway();
        ridge.lstm = None;
        ridge.future_width = 0;
        ridge.future_weight.clear();
        let classic = ClassicParams {
            lookback: 4,
            future_width: 7,
            x_min: vec![-0.1, 5.0],
            x_max: vec![1e9 + 0.1, 5.0],
            y_min: -1e-3,
            y_max: 1e9,
            lstm: lstm(2, 3),
            head: linear(3, 1),
            quantiles: vec![0.5],
            quantile_offset: vec![0.125],
        };
        let naive = SeasonalNaiveParams {
            lookback: 9,
            inputs: 2,
            horizon: 3,
            future_width: 0,
            target_input: 1,
            season: 7,
            quantiles: vec![0.1, 0.9],
            quantile_offset: vec![-1.0, 1.0, -2.0, 2.0, -3.0, 3.0],
        };
        for params in [
            ModelParams::Ensemble(ensemble()),
            ModelParams::Ensemble(few),
            ModelParams::Ensemble(none),
            ModelParams::Default(with_lstm),
            ModelParams::Default(ridge),
            ModelParams::Classic(classic),
            ModelParams::SeasonalNaive(naive),
        ] {
            let file = models::build(&params, &[("version".into(), "3".into())]).unwrap();
            assert_eq!(read(&file), Ok(params));
        }
    }

    #[test]
    fn what_is_not_exactly_ours_is_refused_and_never_a_panic() {
        for params in [
            ModelParams::Default(highway()),
            ModelParams::Ensemble(ensemble()),
        ] {
            refuses_every_change(&params);
        }
    }

    fn refuses_every_change(params: &ModelParams) {
        let file = models::build(params, &[]).unwrap();
        assert!(read(&[]).is_err());
        let changed = |change: &dyn Fn(&mut ModelProto)| {
            let mut model = ModelProto::decode(&file[..]).unwrap();
            change(&mut model);
            read(&model.encode_to_vec())
        };
        assert!(changed(&|_| ()).is_ok());
        assert!(changed(&|m| m.opset_import[0].version = 18).is_err());
        assert!(changed(&|m| m.metadata_props.clear()).is_err());
        let nodes = ModelProto::decode(&file[..]).unwrap().graph.unwrap();
        for i in 0..nodes.node.len() {
            assert!(changed(&|m| drop(m.graph.as_mut().unwrap().node.remove(i))).is_err());
        }
        for (i, tensor) in nodes.initializer.iter().enumerate() {
            let tensor_of = |m: &mut ModelProto, change: &dyn Fn(&mut TensorProto)| {
                change(&mut m.graph.as_mut().unwrap().initializer[i]);
            };
            for change in [
                &(|t: &mut TensorProto| t.raw_data.truncate(3)) as &dyn Fn(&mut TensorProto),
                &|t| t.raw_data.extend([0; 8]),
                &|t| t.dims = vec![i64::MAX, i64::MAX],
                &|t| t.dims.push(1),
                &|t| t.data_type = 1 + t.data_type % 11,
                &|t| t.name.push('x'),
            ] {
                let refused = changed(&|m| tensor_of(m, change)).is_err();
                assert!(refused, "{}", tensor.name);
            }
        }
        for input in 0..2 {
            let huge = changed(&|m| {
                let info = &mut m.graph.as_mut().unwrap().input[input];
                let Some(type_proto::Value::TensorType(t)) =
                    info.r#type.as_mut().and_then(|t| t.value.as_mut())
                else {
                    return;
                };
                let dims = &mut t.shape.as_mut().unwrap().dim;
                dims[2].value = Some(dimension::Value::DimValue(i64::MAX));
            });
            assert!(huge.is_err());
        }
    }
}
