//! Pictures of a client as frames for the model, with a limit on what a small file may unpack to.

use std::io::Cursor;

use duologue_session::Frame;
use image::{ImageFormat, ImageReader, Limits};

/// Longest side; a camera's full-HD frame fits.
const MAX_SIDE: u32 = 2048;
/// How many times as long as the other a side may be: the model's position table ends at 4.8 of the smallest cut.
const MAX_RATIO: u32 = 4;

/// A picture that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PictureError {
    /// Another format.
    #[error("not a JPEG or PNG file")]
    Format,
    /// Longer than the model can see.
    #[error("a picture of {width} x {height} is too elongated, one side may be {MAX_RATIO} times the other; crop it")]
    Elongated {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// Broken, or too large; the message says the limit.
    #[error("{0}; pictures are JPEG or PNG of at most {MAX_SIDE} x {MAX_SIDE}")]
    Decode(#[from] image::ImageError),
}

/// Decodes a JPEG or PNG file. `max_slices` goes into the frame.
///
/// # Errors
/// [`PictureError`].
pub fn decode(bytes: &[u8], max_slices: u32) -> Result<Frame, PictureError> {
    let format = image::guess_format(bytes).map_err(|_| PictureError::Format)?;
    if !matches!(format, ImageFormat::Jpeg | ImageFormat::Png) {
        return Err(PictureError::Format);
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    reader.limits(limits);
    let rgb = reader.decode()?.into_rgb8();
    let (width, height) = rgb.dimensions();
    if width.max(height) > MAX_RATIO * width.min(height) {
        return Err(PictureError::Elongated { width, height });
    }
    Ok(Frame { width: rgb.width(), height: rgb.height(), rgb: rgb.into_raw(), max_slices })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn png(width: u32, height: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let picture = image::RgbImage::from_pixel(width, height, image::Rgb([1, 2, 3]));
        picture.write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png).expect("memory takes it");
        bytes
    }

    #[test]
    fn a_png_becomes_a_frame() {
        let frame = decode(&png(4, 3), 2).unwrap();
        assert_eq!((frame.width, frame.height, frame.max_slices), (4, 3, 2));
        assert_eq!(frame.rgb, [1, 2, 3].repeat(12));
    }

    #[test]
    fn a_strip_is_refused() {
        assert!(decode(&png(40, 10), 1).is_ok() && decode(&png(10, 40), 1).is_ok());
        for (width, height) in [(41, 10), (10, 41)] {
            assert!(matches!(decode(&png(width, height), 1), Err(PictureError::Elongated { .. })));
        }
    }

    #[test]
    fn other_files_broken_ones_and_bombs_are_refused() {
        assert!(matches!(decode(b"GIF89a....", 1), Err(PictureError::Format)));
        assert!(matches!(decode(&[], 1), Err(PictureError::Format)));
        assert!(matches!(decode(&png(40, 30)[..60], 1), Err(PictureError::Decode(_))));
        let error = decode(&png(MAX_SIDE + 1, 1), 1).unwrap_err().to_string();
        assert!(error.contains("at most 2048"), "{error}");
    }
}
