//! How RocksDB is set up: for little memory and a quick start, not for throughput. The index sees a few writes for each
//! blob that is pulled; an agent may use 40 MiB in all when it has nothing to do.

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode, LogLevel,
    LruCacheOptions, Options,
};

use super::Family;

/// Blocks, table indexes and filters of all families together, bytes. The records of 100,000 blobs take 10 MB on disk; what is
/// read often fits here, the rest is in the kernel's cache.
const BLOCK_CACHE_BYTES: usize = 2 << 20;
/// Memory in which a family gathers records before it writes a table, bytes.
const RECORDS_BUFFER_BYTES: usize = 1 << 20;
/// The same for inline contents, which are larger.
const INLINE_BUFFER_BYTES: usize = 4 << 20;
/// Memory in which all families together gather, bytes.
const BUFFERS_BYTES: usize = 6 << 20;
/// Table files of inline contents, bytes. Small ones let a compaction touch little at a time.
const INLINE_TABLE_BYTES: u64 = 8 << 20;
/// First level of inline contents, bytes. Each flush rewrites about as much of it as it overlaps, which is all of it.
const INLINE_LEVEL_BYTES: u64 = 32 << 20;
/// Log that is read again at start, bytes: a tenth of a second.
const LOG_BYTES: u64 = 8 << 20;
/// Table files kept open. Each costs a descriptor and some KiB.
const OPEN_FILES: i32 = 64;
/// RocksDB's own messages, bytes; there are at most two such files.
const INFO_LOG_BYTES: usize = 64 << 10;
/// List of table files, bytes, before it is written anew.
const MANIFEST_BYTES: usize = 1 << 20;

pub(super) fn database(create: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(create);
    options.create_missing_column_families(create);
    options.set_paranoid_checks(true);
    // After a crash the log ends anywhere; everything before that point is taken.
    options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    options.set_max_total_wal_size(LOG_BYTES);
    options.set_db_write_buffer_size(BUFFERS_BYTES);
    options.set_max_open_files(OPEN_FILES);
    options.set_max_file_opening_threads(1);
    options.set_skip_stats_update_on_db_open(true);
    // One for flushes, one for compactions.
    options.set_max_background_jobs(2);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_log_level(LogLevel::Warn);
    options.set_max_log_file_size(INFO_LOG_BYTES);
    options.set_keep_log_file_num(1);
    options.set_max_manifest_file_size(MANIFEST_BYTES);
    options.set_manifest_preallocation_size(64 << 10);
    options
}

pub(super) fn families() -> Vec<ColumnFamilyDescriptor> {
    let mut cache = LruCacheOptions::default();
    cache.set_capacity(BLOCK_CACHE_BYTES);
    // Shards would each get too little to hold a table's filter.
    cache.set_num_shard_bits(0);
    let cache = Cache::new_lru_cache_opts(&cache);
    Family::ALL.into_iter().map(|of| ColumnFamilyDescriptor::new(of.name(), family(of, &cache))).collect()
}

fn family(of: Family, cache: &Cache) -> Options {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_bloom_filter(10.0, false);
    let mut options = Options::default();
    options.set_block_based_table_factory(&blocks);
    // Digests do not compress, layers inside manifests hardly do, and no compressor has to be built in.
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(RECORDS_BUFFER_BYTES);
    options.set_max_write_buffer_number(2);
    options.set_arena_block_size(64 << 10);
    if of == Family::Inline {
        options.set_write_buffer_size(INLINE_BUFFER_BYTES);
        options.set_target_file_size_base(INLINE_TABLE_BYTES);
        options.set_max_bytes_for_level_base(INLINE_LEVEL_BYTES);
    }
    options
}
