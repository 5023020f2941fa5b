//! The processor's way from messages to places in logs, in its own source files and without what it links: frames of three
//! agents and four epochs whose headers are right, since no fuzzer guesses a CRC, among damaged ones and arbitrary bytes.
//! Every message has exactly one outcome, and only one that is taken moves a log, to exactly where it says.
#![no_main]

#[path = "../../../stream-processor/src/decode.rs"]
#[allow(dead_code)]
mod decode;
#[path = "../../../stream-processor/src/intake.rs"]
#[allow(dead_code)]
mod intake;

mod ingest {
    /// As the MQTT client hands it over.
    pub struct Arrival {
        pub topic: String,
        pub payload: bytes::Bytes,
        pub received: std::time::Instant,
    }
}

use std::{collections::BTreeMap, time::Instant};

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use proto::{
    asset::AssetId,
    position::{Epoch, Position},
    telemetry::{Codec, Frame, FrameHeader, FrameKind, check_batch, frame::FRAME_BYTES_MAX},
    time::PlantTime,
    topic::{Channel, Topic},
    wire::telemetry::{Gap, SealTime, TelemetryBatch},
};

use decode::{AgentKey, Content, DeadLetter, Decoded, decode};
use ingest::Arrival;
use intake::{EpochsLeft, Intake};

const SITE: &str = "mill";
const AGENTS: [&str; 3] = ["gw-1", "gw-2", "gw-3"];
const EPOCHS: u8 = 4;

/// The input, byte by byte; zeros behind its end.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.0.split_first().map_or((0, self.0), |(first, rest)| (*first, rest));
        self.0 = rest;
        first
    }

    fn bytes(&mut self, most: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        bytes
    }

    fn position(&mut self) -> Position {
        let (epoch, seq) = (self.byte() % EPOCHS, self.byte());
        Position { epoch: Epoch([epoch; 16]), seq: if seq == u8::MAX { u64::MAX - 1 } else { u64::from(seq % 8) } }
    }

    fn topic(&mut self, agent: &AssetId) -> String {
        match self.byte() {
            0 => String::from_utf8_lossy(self.bytes(40)).into_owned(),
            1 => Topic::new(agent, agent, Channel::Telemetry).to_string(),
            2 => Topic::new(&id(SITE), agent, Channel::Status).to_string(),
            _ => Topic::new(&id(SITE), agent, Channel::Telemetry).to_string(),
        }
    }

    /// A frame whose header is right, and then perhaps one byte less or another one.
    fn payload(&mut self) -> Bytes {
        let shape = self.byte();
        let size = usize::from(self.byte()) * 4;
        if shape % 8 == 0 {
            return Bytes::copy_from_slice(self.bytes(size));
        }
        let position = self.position();
        let last_seq = position.seq.saturating_add(u64::from(self.byte() % 4));
        let previous = (self.byte() % 2 == 1).then(|| self.position());
        let frame = match shape % 8 {
            1 => Frame::gap(position, last_seq, previous, &Gap::default()),
            2..5 => Frame::seal(position, previous, 0, &sealed(size as i64)),
            kind => {
                let payload = Bytes::copy_from_slice(self.bytes(size));
                let (kind, codec) = match kind {
                    5 => (FrameKind::Gap, Codec::Plain),
                    6 => (FrameKind::Bridge, Codec::Plain),
                    _ => (FrameKind::Data, if shape > 127 { Codec::Zstd } else { Codec::Plain }),
                };
                let any = Frame::gap(position, last_seq, previous, &Gap::default()).header;
                let (payload_bytes, payload_crc) = (payload.len() as u32, crc32c::crc32c(&payload));
                Frame { header: FrameHeader { kind, codec, payload_bytes, payload_crc, ..any }, payload }
            }
        };
        let mut bytes = frame.encode().to_vec();
        match self.byte() {
            0 => drop(bytes.pop()),
            1 => {
                let at = usize::from(self.byte()) % bytes.len();
                bytes[at] ^= 1;
            }
            _ => {}
        }
        bytes.into()
    }
}

fn id(name: &str) -> AssetId {
    AssetId::new(name).expect("a right name")
}

fn sealed(time_ms: i64) -> TelemetryBatch {
    let sealed = SealTime { time_ms, trusted: true, ..SealTime::default() };
    TelemetryBatch { sealed: Some(sealed), ..TelemetryBatch::default() }
}

fn is_bounded(letter: &DeadLetter) -> bool {
    letter.payload.len() <= FRAME_BYTES_MAX
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let site = id(SITE);
    let mut intake = Intake::new(&BTreeMap::new(), EpochsLeft::new());
    let (mut messages, mut outcomes) = (0, BTreeMap::<&str, u64>::new());
    while !input.0.is_empty() {
        let agent = id(AGENTS[usize::from(input.byte()) % AGENTS.len()]);
        intake.set_paused(input.byte() == 0);
        let (topic, payload) = (input.topic(&agent), input.payload());
        let before = intake.positions();
        let arrival = Arrival { topic, payload: payload.clone(), received: Instant::now() };
        let decoded = decode(&mut intake, &site, &arrival, PlantTime(1));
        messages += 1;
        *outcomes.entry(decoded.outcome()).or_default() += 1;
        let mut expected = before;
        match &decoded {
            Decoded::Taken(taken) => {
                let Position { epoch, .. } = taken.position;
                expected.insert(taken.agent.clone(), Position { epoch, seq: taken.last_seq });
                match &taken.content {
                    Content::Batch { batch, readings } => assert_eq!(check_batch(batch), Ok(*readings)),
                    Content::DeadLetter(letter) => assert!(is_bounded(letter) && letter.payload == payload),
                    Content::Gap(_) | Content::Break { .. } => {}
                }
            }
            Decoded::Lost(letter) | Decoded::Conflict(_, letter) => assert!(is_bounded(letter) && !intake.paused()),
            Decoded::Dropped => assert!(intake.paused()),
            Decoded::Refused(agent, _) => assert_eq!(*agent, AgentKey { site: site.clone(), agent: agent.agent.clone() }),
            Decoded::Elsewhere => panic!("all slots are ours"),
        }
        assert_eq!(intake.positions(), expected, "{decoded:?}");
    }
    assert_eq!(outcomes.values().sum::<u64>(), messages);
    // What a snapshot says of the logs is enough to know them again.
    let again = Intake::new(&intake.positions(), intake.left());
    assert_eq!((again.positions(), again.left()), (intake.positions(), intake.left()));
});
