-- Version 2 of the schema; docs/format.md says what every table means. Never changed once released.

-- What a captioner wrote has the source `generated`, not `blip`; SQLite changes no check but with its table.
create table captions_2 (
    id integer primary key,
    image_id integer not null references images (id) on delete cascade,
    source text not null check (source in ('clip', 'generated', 'user')),
    text text not null,
    similarity real,
    log_prob real,
    model text,
    best integer not null check (best in (0, 1))
);

insert into captions_2 select id, image_id, case source when 'blip' then 'generated' else source end,
    text, similarity, log_prob, model, best from captions;

drop table captions;

alter table captions_2 rename to captions;

create index captions_by_image on captions (image_id);
