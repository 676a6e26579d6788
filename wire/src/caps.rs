//! Size caps of everything that crosses the wire; both sides enforce them before they allocate.

/// Largest payload of any MQTT message, bytes.
pub const MAX_PAYLOAD: usize = 512 * 1024;
/// Largest batch body after decompression, bytes.
pub const MAX_BODY: usize = 4 * 1024 * 1024;
/// Most records of one batch.
pub const MAX_RECORDS: u64 = 20_000;
/// A batch is sealed at this many bytes of estimated body at the latest.
pub const SEAL_BYTES: usize = 256 * 1024;
/// Longest name of a sensor, device, site or forecaster, bytes.
pub const MAX_NAME: usize = 64;
/// Longest free text (reason, message), bytes; longer ones are cut by the sender, refused by the receiver.
pub const MAX_TEXT: usize = 1_024;
/// Most steps times quantile levels of one forecast.
pub const MAX_FORECAST_VALUES: usize = 32 * 1_024;
/// Block of a bundle sent over MQTT, bytes.
pub const BLOCK: usize = 32 * 1024;
/// Most bytes of a block with its frame.
pub const FRAMED_BLOCK: usize = BLOCK + 64;
/// Largest bundle, bytes.
pub const MAX_BUNDLE: usize = 32 * 1024 * 1024;
/// Most batch ranges beyond the watermark that one ack lists.
pub const MAX_ACK_RANGES: usize = 64;
/// Most batches that one ack proves to be committed.
pub const MAX_ACK_PROOFS: usize = 256;
/// Bytes of a digest that prove a batch.
pub const PROOF: usize = 16;
/// Most rejected records that one ack lists.
pub const MAX_ACK_REJECTED: usize = 1_024;
/// Most blocks that one blob request asks for.
pub const MAX_BLOCKS_ASKED: usize = 64;
/// Largest sync, presence or block request, bytes.
pub const MAX_SMALL: usize = 4 * 1024;
/// Most orders that one `Desired`, and forecasters that one state lists.
pub const MAX_LISTED: usize = 1_024;
/// Most forecasters of one device.
pub const MAX_FORECASTERS: usize = 64;
/// Most commands of one device that have no outcome yet.
pub const MAX_COMMANDS: usize = 16;
/// Most sensors that register themselves for one device.
pub const MAX_SENSORS: usize = 256;
/// Earliest data time accepted: 1900-01-01.
pub const MIN_TIME_MS: i64 = -2_208_988_800_000;
/// Latest data time accepted: 2200-01-01.
pub const MAX_TIME_MS: i64 = 7_258_118_400_000;
