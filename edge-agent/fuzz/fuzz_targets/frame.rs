//! Bytes as a frame; and, since no fuzzer guesses a CRC, the same bytes as a payload that its header vouches for.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use proto::{
    position::{Epoch, Position},
    telemetry::{Codec, Frame, FrameHeader, FrameKind, check_batch, columns::decode_batch, delta_decode},
    wire::telemetry::{Gap, TelemetryBatch},
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(frame) = Frame::split(Bytes::copy_from_slice(bytes)) {
        assert_eq!(&*frame.encode(), bytes, "a frame has one form");
        look_into(&frame);
    }
    let Some((kind, payload)) = bytes.split_first() else { return };
    let gap = Frame::gap(Position { epoch: Epoch([1; 16]), seq: 1 }, 1, None, &Gap::default()).header;
    let (kind, codec) = match kind % 3 {
        0 => (FrameKind::Gap, Codec::Plain),
        1 => (FrameKind::Data, Codec::Plain),
        _ => (FrameKind::Data, Codec::Zstd),
    };
    let header =
        FrameHeader { kind, codec, payload_bytes: payload.len() as u32, payload_crc: crc32c::crc32c(payload), ..gap };
    // NaN by its bits.
    let encoded = |decoded: Result<TelemetryBatch, _>| decoded.ok().map(|batch| batch.encode_to_vec());
    assert_eq!(encoded(decode_batch(payload)), encoded(TelemetryBatch::decode(payload)), "two decoders of one schema");
    let frame = Frame { header, payload: Bytes::copy_from_slice(payload) };
    if let Ok(back) = Frame::split(frame.encode()) {
        assert_eq!(back, frame);
        assert_eq!(back.verify(), Ok(()));
        look_into(&back);
    }
});

fn look_into(frame: &Frame) {
    let _ = frame.verify();
    let _ = frame.gap_content();
    let Ok(batch) = frame.batch() else { return };
    let _ = check_batch(&batch);
    for machine in &batch.machines {
        delta_decode(&machine.time_delta_ms);
    }
    let position = Position { epoch: Epoch([2; 16]), seq: 7 };
    let sealed = Frame::seal(position, None, frame.header.readings, &batch);
    let again = Frame::seal(position, None, frame.header.readings, &sealed.batch().expect("what was sealed is read"));
    assert_eq!(sealed, again);
}
