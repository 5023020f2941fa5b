#![no_main]

use libfuzzer_sys::fuzz_target;
use proto::ack::Ack;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(ack) = Ack::decode(bytes) {
        assert_eq!(Ack::decode(&ack.encode()), Ok(ack));
    }
});
