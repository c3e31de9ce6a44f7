"""`avhubert-ext serve`: a local web page to try a recognizer on.

page/       HTML, CSS and JavaScript
app         the API between page and recognizer
guard       checks every request, and adds headers to every response
desk        a queue of jobs that report progress as JSON lines
process     a worker process that may crash or hang
jobs        the work of the workers: read an upload, recognize a clip
clips       uploaded clips, kept in memory for a while
noise       the noise of the slider
limits      limits on uploads, time and memory
server      start and stop of sockets and workers
"""
