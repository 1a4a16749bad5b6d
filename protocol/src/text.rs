//! Strings and lists on the wire, in the form that system calls want.
//!
//! A string travels with its terminating NUL, a list of strings as one run of such strings. So the guest hands
//! pointers into the received frame to `execve` and friends, and copies nothing.

use core::ffi::CStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// A string without inner NUL bytes, of any encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WireStr<'a>(&'a CStr);

impl<'a> WireStr<'a> {
    /// The string as system calls take it.
    #[must_use]
    pub fn as_c_str(&self) -> &'a CStr {
        self.0
    }
}

impl<'a> From<&'a CStr> for WireStr<'a> {
    fn from(text: &'a CStr) -> Self {
        Self(text)
    }
}

impl Serialize for WireStr<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0.to_bytes_with_nul())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for WireStr<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&'a [u8]>::deserialize(deserializer)?;
        CStr::from_bytes_with_nul(bytes)
            .map(Self)
            .map_err(|_| D::Error::custom("not one NUL-terminated string"))
    }
}

/// A list of strings: their bytes one after the other, each with its NUL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StrList<'a>(&'a [u8]);

impl<'a> StrList<'a> {
    /// A list from the strings' bytes, each ending in NUL. `None` if the last one does not end.
    #[must_use]
    pub fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        matches!(bytes.last(), None | Some(0)).then_some(Self(bytes))
    }

    /// The strings, in order.
    pub fn iter(&self) -> impl Iterator<Item = &'a CStr> + use<'a> {
        self.0.split_inclusive(|byte| *byte == 0).filter_map(|bytes| CStr::from_bytes_with_nul(bytes).ok())
    }

    /// Whether the list has no string at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for StrList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for StrList<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&'a [u8]>::deserialize(deserializer)?;
        Self::from_bytes(bytes).ok_or_else(|| D::Error::custom("string list without a final NUL"))
    }
}

/// A list of user or group ids: four bytes each, little endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct IdList<'a>(&'a [u8]);

impl<'a> IdList<'a> {
    /// A list from its bytes. `None` if the length is not a multiple of four.
    #[must_use]
    pub fn from_bytes(bytes: &'a [u8]) -> Option<Self> {
        bytes.len().is_multiple_of(4).then_some(Self(bytes))
    }

    /// The ids, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = u32> + use<'a> {
        let (chunks, _) = self.0.as_chunks::<4>();
        chunks.iter().map(|bytes| u32::from_le_bytes(*bytes))
    }
}

impl Serialize for IdList<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for IdList<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <&'a [u8]>::deserialize(deserializer)?;
        Self::from_bytes(bytes).ok_or_else(|| D::Error::custom("id list is not whole"))
    }
}
