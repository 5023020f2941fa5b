//! Registers as numbers. Pure.

use serde::Deserialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Number {
    Bool,
    U16,
    I16,
    U32,
    I32,
    U64,
    I64,
    F32,
    F64,
}

/// Which comes first, the more significant (big) or the less significant (little).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    #[default]
    Big,
    Little,
}

impl Number {
    /// Registers, or bits in a table of bits.
    pub fn registers(self) -> u16 {
        match self {
            Number::Bool | Number::U16 | Number::I16 => 1,
            Number::U32 | Number::I32 | Number::F32 => 2,
            Number::U64 | Number::I64 | Number::F64 => 4,
        }
    }

    /// The value of as many registers. Beyond 2^53 the last digits are lost.
    pub fn decode(self, registers: &[u16], words: Order, bytes: Order) -> f64 {
        let word = |register: u16| match bytes {
            Order::Big => register,
            Order::Little => register.swap_bytes(),
        };
        let join = |bits: u64, register: &u16| (bits << 16) | u64::from(word(*register));
        let bits = match words {
            Order::Big => registers.iter().fold(0, join),
            Order::Little => registers.iter().rev().fold(0, join),
        };
        match self {
            Number::Bool => f64::from(u8::from(bits != 0)),
            Number::U16 | Number::U32 | Number::U64 => bits as f64,
            Number::I16 => f64::from(bits as i16),
            Number::I32 => f64::from(bits as i32),
            Number::I64 => bits as i64 as f64,
            Number::F32 => f64::from(f32::from_bits(bits as u32)),
            Number::F64 => f64::from_bits(bits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Number::*, Order::*};

    #[test]
    fn every_type_in_every_order() {
        let float = 12.5f32.to_bits();
        let [high, low] = [(float >> 16) as u16, float as u16];
        assert_eq!(F32.decode(&[high, low], Big, Big), 12.5);
        assert_eq!(F32.decode(&[low, high], Little, Big), 12.5);
        assert_eq!(F32.decode(&[high.swap_bytes(), low.swap_bytes()], Big, Little), 12.5);
        assert_eq!(F32.decode(&[low.swap_bytes(), high.swap_bytes()], Little, Little), 12.5);
        assert_eq!(U16.decode(&[65_535], Big, Big), 65_535.0);
        assert_eq!(I16.decode(&[65_535], Big, Big), -1.0);
        assert_eq!(I16.decode(&[0xfeff], Big, Little), -2.0);
        assert_eq!(U32.decode(&[1, 2], Big, Big), 65_538.0);
        assert_eq!(I32.decode(&[0xffff, 0xfffe], Big, Big), -2.0);
        assert_eq!(U64.decode(&[0, 1, 0, 0], Big, Big), 4_294_967_296.0);
        assert_eq!(I64.decode(&[0xfffd, 0xffff, 0xffff, 0xffff], Little, Big), -3.0);
        let double = (-0.125f64).to_bits();
        let words = [48, 32, 16, 0].map(|shift| (double >> shift) as u16);
        assert_eq!(F64.decode(&words, Big, Big), -0.125);
        assert_eq!([0, 1, 7].map(|r| Bool.decode(&[r], Big, Big)), [0.0, 1.0, 1.0]);
        assert!(F32.decode(&[0x7fc0, 0], Big, Big).is_nan());
    }
}
