-- `Upload-Concat` of an upload that is put together, as it was received: tus tells it again in every HEAD.
alter table files add column upload_concat text;
