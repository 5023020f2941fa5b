//! Named tensors in and out of safetensors, under one checksum.

use std::collections::{BTreeMap, HashMap};

use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use sha2::{Digest, Sha256};

use super::ArtifactError;
use crate::forward::{Bins, Layer};

/// Key of the JSON header in the safetensors metadata.
const HEADER: &str = "millwright";
/// SHA-256 over the header and every other tensor; a tensor itself, so that the file stays plain safetensors.
const CHECKSUM: &str = "checksum";

#[derive(Default)]
pub(crate) struct TensorsBuilder {
    tensors: BTreeMap<String, Stored>,
}

struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    data: Vec<u8>,
}

impl TensorsBuilder {
    pub fn f64(&mut self, name: &str, values: &[f64]) {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.insert(name.into(), Stored { dtype: Dtype::F64, shape: vec![values.len()], data });
    }

    pub fn f32(&mut self, name: &str, values: &[f32]) {
        let data = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        self.tensors.insert(name.into(), Stored { dtype: Dtype::F32, shape: vec![values.len()], data });
    }

    pub fn layer(&mut self, i: usize, layer: &Layer) {
        self.f32(&format!("layer.{i}.weight"), &layer.weight);
        self.f32(&format!("layer.{i}.adapter"), &layer.adapter);
        self.f32(&format!("layer.{i}.scale"), &layer.scale);
        self.f32(&format!("layer.{i}.bias"), &layer.bias);
    }

    pub fn digest(&self, header: &str) -> [u8; 32] {
        let tensors = self.tensors.iter().map(|(name, t)| (name.as_str(), t.shape.as_slice(), t.data.as_slice()));
        digest(header, tensors)
    }

    /// The whole file.
    pub fn seal(mut self, header: &str) -> Result<Vec<u8>, ArtifactError> {
        let data = self.digest(header).to_vec();
        self.tensors.insert(CHECKSUM.into(), Stored { dtype: Dtype::U8, shape: vec![data.len()], data });
        let views = self.tensors.iter().map(|(name, t)| {
            let view = TensorView::new(t.dtype, t.shape.clone(), &t.data).map_err(format)?;
            Ok((name.clone(), view))
        });
        let views = views.collect::<Result<Vec<_>, ArtifactError>>()?;
        let metadata = HashMap::from([(HEADER.to_owned(), header.to_owned())]);
        safetensors::serialize(views, Some(metadata)).map_err(format)
    }
}

/// A file whose checksum is right.
pub(crate) struct Tensors<'a> {
    tensors: SafeTensors<'a>,
    pub header: String,
}

impl<'a> Tensors<'a> {
    pub fn open(bytes: &'a [u8]) -> Result<Self, ArtifactError> {
        let tensors = SafeTensors::deserialize(bytes).map_err(format)?;
        let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(format)?;
        let header = metadata.metadata().as_ref().and_then(|m| m.get(HEADER)).cloned();
        let header = header.ok_or_else(|| ArtifactError::Format("it has no header".into()))?;
        let mut named: Vec<(&str, TensorView<'_>)> = tensors.iter().filter(|(name, _)| *name != CHECKSUM).collect();
        named.sort_by(|a, b| a.0.cmp(b.0));
        let is = digest(&header, named.iter().map(|(name, t)| (*name, t.shape(), t.data())));
        let says = tensors.tensor(CHECKSUM).map_err(|_| ArtifactError::Checksum)?;
        if says.data() != is {
            return Err(ArtifactError::Checksum);
        }
        Ok(Tensors { tensors, header })
    }

    /// A vector of exactly `len` numbers.
    pub fn f64(&self, name: &str, len: usize) -> Result<Vec<f64>, ArtifactError> {
        let tensor = self.tensors.tensor(name).map_err(format)?;
        if tensor.dtype() != Dtype::F64 || tensor.shape() != [len] {
            return Err(ArtifactError::Format(format!("tensor {name} has type or shape that do not fit")));
        }
        let (numbers, _) = tensor.data().as_chunks::<8>();
        Ok(numbers.iter().map(|b| f64::from_le_bytes(*b)).collect())
    }

    pub fn finite(&self, name: &'static str, len: usize) -> Result<Vec<f64>, ArtifactError> {
        let values = self.f64(name, len)?;
        if values.iter().all(|v| v.is_finite()) { Ok(values) } else { Err(ArtifactError::NotFinite { what: name }) }
    }

    /// Layer `i` of a network with layers of these sizes; whether its numbers fit them is for the network to say.
    pub fn layer(&self, i: usize, sizes: &[usize]) -> Result<Layer, ArtifactError> {
        let part = |part: &str| self.f32(&format!("layer.{i}.{part}"));
        Ok(Layer {
            inputs: sizes[i],
            outputs: sizes[i + 1],
            weight: part("weight")?,
            adapter: part("adapter")?,
            scale: part("scale")?,
            bias: part("bias")?,
        })
    }

    /// Bins with so many edges per input.
    pub fn bins(&self, edges: &[usize]) -> Result<Bins, ArtifactError> {
        let all = self.f32("bins.edges")?;
        if edges.iter().try_fold(0usize, |sum, n| sum.checked_add(*n)) != Some(all.len()) {
            return Err(ArtifactError::Format("there are more or fewer edges of bins than said".into()));
        }
        let mut rest = all.into_iter();
        Ok(Bins::new(edges.iter().map(|n| rest.by_ref().take(*n).collect()).collect())?)
    }

    fn f32(&self, name: &str) -> Result<Vec<f32>, ArtifactError> {
        let tensor = self.tensors.tensor(name).map_err(format)?;
        if tensor.dtype() != Dtype::F32 || tensor.shape().len() != 1 {
            return Err(ArtifactError::Format(format!("tensor {name} is no vector of 32-bit floats")));
        }
        let (numbers, _) = tensor.data().as_chunks::<4>();
        Ok(numbers.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }
}

/// Over tensors in the order of their names; lengths keep neighbours apart.
fn digest<'a>(header: &str, tensors: impl Iterator<Item = (&'a str, &'a [usize], &'a [u8])>) -> [u8; 32] {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u64).to_le_bytes());
        hash.update(bytes);
    };
    part(header.as_bytes());
    for (name, shape, data) in tensors {
        part(name.as_bytes());
        part(&shape.iter().flat_map(|d| (*d as u64).to_le_bytes()).collect::<Vec<_>>());
        part(data);
    }
    hash.finalize().into()
}

fn format(error: safetensors::SafeTensorError) -> ArtifactError {
    ArtifactError::Format(error.to_string())
}
