-- Version 1 of the schema; docs/format.md says what every table means. Never changed once released.

create table settings (
    name text primary key,
    value text not null
) without rowid;

create table roots (
    id integer primary key,
    path not null unique,
    from_library
);

create table images (
    id integer primary key autoincrement,
    root_id integer not null references roots (id),
    relative not null,
    folder not null,
    name not null,
    size_bytes integer not null,
    mtime_ns integer not null,
    content_hash text not null,
    format text not null,
    width integer not null,
    height integer not null,
    taken_at text,
    camera text,
    latitude real,
    longitude real,
    indexed_at_ns integer not null,
    unique (root_id, relative)
);
create index images_by_hash on images (content_hash);

create table models (
    id integer primary key autoincrement,
    name text not null unique,
    weights_hash text not null,
    preprocessing_version integer not null,
    dim integer not null,
    generation integer not null
);

create table vectors (
    image_id integer not null references images (id) on delete cascade,
    model_id integer not null references models (id) on delete cascade,
    generation integer not null,
    precision text not null check (precision in ('fp32', 'int8')),
    vector blob not null,
    unique (image_id, model_id)
);
create index vectors_by_generation on vectors (model_id, image_id, generation);

create table captions (
    id integer primary key,
    image_id integer not null references images (id) on delete cascade,
    source text not null check (source in ('clip', 'blip', 'user')),
    text text not null,
    similarity real,
    log_prob real,
    model text,
    best integer not null check (best in (0, 1))
);
create index captions_by_image on captions (image_id);

create virtual table texts using fts5 (name, captions, tokenize = 'porter unicode61 remove_diacritics 2');

create table failures (
    root_id integer not null references roots (id),
    relative not null,
    size_bytes integer not null,
    mtime_ns integer not null,
    reason text not null,
    primary key (root_id, relative)
) without rowid;
