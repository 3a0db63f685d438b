-- The words of all titles, by which a search finds what a misspelt word was meant to be. It grows with the language
-- and not with the catalogue; words of removed titles stay and do no harm. PostgreSQL's own advice:
-- https://www.postgresql.org/docs/current/pgtrgm.html#PGTRGM-TEXT-SEARCH
create table title_words (word text collate "C" primary key);
create index title_words_trigrams on title_words using gin (word gin_trgm_ops);

-- Words of one or two letters and numbers are never taken for another.
create function keep_title_words() returns trigger language plpgsql as $$
begin
    insert into title_words (word)
    select distinct w.word from written, unnest(string_to_array(normalised_title, ' ')) as w (word)
    where length(w.word) between 3 and 40 and w.word !~ '^[0-9]+$'
        and not exists (select from title_words known where known.word = w.word)
    order by w.word
    on conflict do nothing;
    return null;
end $$;
create trigger keep_title_words_of_new after insert on games
    referencing new table as written for each statement execute function keep_title_words();
create trigger keep_title_words_of_changed after update on games
    referencing new table as written for each statement execute function keep_title_words();

insert into title_words (word)
select distinct w.word from games, unnest(string_to_array(normalised_title, ' ')) as w (word)
where length(w.word) between 3 and 40 and w.word !~ '^[0-9]+$';

-- Finds equal titles as before, and titles by how they begin too.
create index games_by_title on games (normalised_title text_pattern_ops);
drop index games_by_normalised_title;
