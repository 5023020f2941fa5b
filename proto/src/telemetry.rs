//! Batches of an agent's log: the frame that is readable without protobuf, and its columnar content.

pub mod batch;
pub mod columns;
pub mod frame;

pub use batch::{BatchError, check_batch, delta_decode, delta_encode};
pub use frame::{Codec, Frame, FrameError, FrameHeader, FrameKind, HEADER_BYTES};
