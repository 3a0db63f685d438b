-- Files that are being put together: a worker looks whether somebody reads them.
create index files_to_assemble on files (updated_at) where state = 'uploading' and concat = 'final';
