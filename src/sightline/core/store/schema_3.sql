-- Version 3 of the schema; docs/format.md says what every table means. Never changed once released.

create table words (
    id integer primary key,
    name text not null,
    folded text not null unique,
    kind text
);

create table examples (
    id integer primary key,
    word_id integer not null references words (id) on delete cascade,
    path not null,
    content_hash text not null,
    unique (word_id, content_hash)
);

create table example_vectors (
    example_id integer not null references examples (id) on delete cascade,
    model_id integer not null references models (id) on delete cascade,
    vector blob not null,
    primary key (example_id, model_id)
) without rowid;

create index example_vectors_by_model on example_vectors (model_id);
