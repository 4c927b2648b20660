//! Upper bounds for what comes from outside, each with its reason.

/// Bounds of one image store.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Entries of one layer. Large machine-learning images have about 300,000 files in a layer; every entry costs an
    /// inode, which are finite on most file systems.
    pub layer_entries: u64,
    /// Bytes of one unpacked layer, headers included.
    pub layer_bytes: u64,
    /// Unpacked bytes per compressed byte, once [`Limits::ratio_free_bytes`] have been unpacked. Program code
    /// compresses 3 to 5 times, logs up to 30; a run of zeros in gzip 200 to 1,000 times.
    pub ratio: u64,
    /// Unpacked bytes below which the ratio is not looked at: small layers may well be mostly padding.
    pub ratio_free_bytes: u64,
    /// Layers of one image: overlayfs and Docker stop at 128 with the writable one.
    pub layers: usize,
    /// Nested folders: real trees stay below 60, and walking holds one descriptor per level.
    pub depth: usize,
    /// Bytes of a manifest, index or `manifest.json`; registries refuse more than 4 MiB.
    pub manifest_bytes: u64,
    /// Bytes of an image configuration: history and labels; 8 MiB is far above any seen.
    pub config_bytes: u64,
    /// Bytes of an archive given to load, and of all blobs of a pull.
    pub image_bytes: u64,
    /// Entries of an archive given to load: three per layer and image at most.
    pub archive_entries: u64,
    /// Downloads at the same time for one image: enough to fill a link, few enough for the registry's limits.
    pub parallel_downloads: usize,
    /// Layers unpacked at the same time on the whole store.
    pub parallel_unpacks: usize,
    /// Attempts for one blob before the pull fails; with the back-off about half a minute.
    pub attempts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            layer_entries: 500_000,
            layer_bytes: 64 << 30,
            ratio: 100,
            ratio_free_bytes: 256 << 20,
            layers: 127,
            depth: 128,
            manifest_bytes: 4 << 20,
            config_bytes: 8 << 20,
            image_bytes: 128 << 30,
            archive_entries: 4096,
            parallel_downloads: 4,
            parallel_unpacks: cpus.clamp(2, 8),
            attempts: 6,
        }
    }
}

/// Longest name of one path segment in bytes (`NAME_MAX`).
pub(crate) const NAME_MAX: usize = 255;
/// Longest path and link target in bytes, without the final NUL (`PATH_MAX`).
pub(crate) const PATH_MAX: usize = 4095;
/// Longest PAX header in bytes: extended attributes (64 KiB each on Linux) and long names.
pub(crate) const PAX_MAX: u64 = 1 << 20;
/// Headers before one entry (`x`, `g`, `L`, `K`): each kind at most twice in sane archives.
pub(crate) const META_MAX: usize = 16;
