-- Version 4 of the schema; docs/format.md says what every table means. Never changed once released.

create table sketches (
    content_hash text primary key,
    grey blob not null
);

-- A sketch goes with the last image of its content, however that goes.
create trigger sketches_of_deleted after delete on images begin delete from sketches where content_hash = old.content_hash and not exists (select 1 from images where content_hash = old.content_hash); end;

create trigger sketches_of_changed after update of content_hash on images when old.content_hash <> new.content_hash begin delete from sketches where content_hash = old.content_hash and not exists (select 1 from images where content_hash = old.content_hash); end;
