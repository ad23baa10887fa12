-- Version 6 of the schema; docs/format.md says what every table means. Never changed once released.

alter table images add column altitude_m real;

alter table images add column lens text;

alter table images add column f_number real;

alter table images add column exposure_s real;

alter table images add column iso integer;

alter table images add column focal_mm real;

alter table images add column rating integer;

alter table images add column title text;

alter table images add column description text;

alter table images add column author text;

alter table images add column keywords text;

alter table images add column city text;

alter table images add column region text;

alter table images add column country text;

alter table images add column facts_version integer not null default 0;

alter table images add column pixels_version integer not null default 0;

create table readings (
    content_hash text primary key,
    engine text not null,
    text text not null,
    boxes text not null
);

-- A reading goes with the last image of its content, as a sketch does.
create trigger readings_of_deleted after delete on images begin delete from readings where content_hash = old.content_hash and not exists (select 1 from images where content_hash = old.content_hash); end;

create trigger readings_of_changed after update of content_hash on images when old.content_hash <> new.content_hash begin delete from readings where content_hash = old.content_hash and not exists (select 1 from images where content_hash = old.content_hash); end;

-- Its tokens are made in Python, the same way for what is written and for what is asked; here they are only cut at spaces.
drop table texts;

create virtual table texts using fts5 (name, folder, caption, keyword, text, tokenize = 'ascii');
