-- Version 5 of the schema; docs/format.md says what every table means. Never changed once released.

-- How near an image is to everything that people ask (its hubness), and the bank of vectors that said so.
alter table vectors add column hubness real;

alter table models add column hub_bank text;

-- The index has all that a matrix needs beside the vectors themselves.
drop index vectors_by_generation;

create index vectors_by_generation on vectors (model_id, image_id, generation, hubness);
