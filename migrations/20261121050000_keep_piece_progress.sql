-- What a store that gathers parts, as S3 does, must know to go on with a piece or to make it readable: its multipart
-- upload, the parts of that, and the object that has the bytes behind them. Null once the piece is an object of its own,
-- and always where pieces are files in a directory.
alter table file_pieces add column progress jsonb;
