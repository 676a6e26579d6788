//! Memory that begins on a cache line, so that a SIMD load never straddles two: owns the offset, never what is stored.

/// Bytes of a cache line, and of the widest vector.
const LINE: usize = 64;

/// A growable f32 buffer whose first element is aligned to [`LINE`].
#[derive(Debug, Default)]
pub(crate) struct Aligned {
    memory: Vec<f32>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// Makes it `len` long. Old content moves or is lost; a grown buffer is zero only where memory is new.
    pub(crate) fn resize(&mut self, len: usize) {
        let needed = len + LINE / size_of::<f32>();
        if self.memory.len() < needed {
            self.memory = vec![0.0; needed];
            let offset = self.memory.as_ptr().align_offset(LINE);
            // The standard library may decline to tell; unaligned is slower and nothing else.
            self.start = if offset < LINE { offset } else { 0 };
        }
        self.len = len;
    }
}

impl std::ops::Deref for Aligned {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.memory[self.start..self.start + self.len]
    }
}

impl std::ops::DerefMut for Aligned {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.memory[self.start..self.start + self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_on_a_line_whatever_its_length() {
        let mut buffer = Aligned::default();
        for len in [1, 1_000, 7, 123_456] {
            buffer.resize(len);
            assert_eq!((buffer.as_ptr() as usize % LINE, buffer.len()), (0, len));
        }
    }
}
