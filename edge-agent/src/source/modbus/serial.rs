//! A serial port as an asynchronous stream, by the kernel's own interface: the crates for it bring a licence and
//! versions of others that this house does not have.

use std::{fs::OpenOptions, io, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

use rustix::{
    fs::OFlags,
    termios::{ControlModes, OptionalActions, QueueSelector, SpecialCodeIndex, tcflush, tcgetattr, tcsetattr},
};
use tokio::{
    io::{Join, join},
    net::unix::pipe::{Receiver, Sender},
};

use super::config::{Parity, SerialConfig};

/// Start bit, 8 data bits, parity or a second stop bit, stop bit.
const BITS_PER_CHARACTER: u32 = 11;
/// Above 19200 baud the specification has one silence for all.
const SILENCE_MIN: Duration = Duration::from_micros(1_750);

/// Silence of three and a half characters, by which devices know where a frame begins.
pub fn silence(serial: &SerialConfig) -> Duration {
    let character = Duration::from_secs(u64::from(BITS_PER_CHARACTER)) / serial.baud.max(1);
    (character * 7 / 2).max(SILENCE_MIN)
}

/// Does not wait for a carrier, and throws away what was received before.
pub fn open(path: &Path, serial: &SerialConfig) -> io::Result<Join<Receiver, Sender>> {
    let flags = OFlags::NOCTTY | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).write(true).custom_flags(flags.bits() as i32).open(path)?;
    let mut settings = tcgetattr(&file)?;
    settings.make_raw();
    let odd_stop = ControlModes::PARENB | ControlModes::PARODD | ControlModes::CSTOPB | ControlModes::CRTSCTS;
    settings.control_modes.remove(ControlModes::CSIZE | odd_stop);
    settings.control_modes.insert(ControlModes::CS8 | ControlModes::CREAD | ControlModes::CLOCAL);
    settings.control_modes.insert(match serial.parity {
        Parity::None => ControlModes::empty(),
        Parity::Even => ControlModes::PARENB,
        Parity::Odd => ControlModes::PARENB | ControlModes::PARODD,
    });
    settings.control_modes.set(ControlModes::CSTOPB, serial.stop_bits == 2);
    // A read of nothing would look like the end of the file.
    settings.special_codes[SpecialCodeIndex::VMIN] = 1;
    settings.special_codes[SpecialCodeIndex::VTIME] = 0;
    settings.set_speed(serial.baud)?;
    tcsetattr(&file, OptionalActions::Now, &settings)?;
    tcflush(&file, QueueSelector::IOFlush)?;
    // The kernel's interface for both is the same; these are not asked to be pipes.
    let (receiver, sender) = (Receiver::from_file_unchecked(file.try_clone()?)?, Sender::from_file_unchecked(file)?);
    Ok(join(receiver, sender))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_apart_by_what_the_specification_says() {
        let at = |baud| silence(&SerialConfig { baud, ..Default::default() });
        assert_eq!(at(115_200), Duration::from_micros(1_750));
        assert_eq!(at(9_600).as_micros(), 4_010);
    }
}
