# Every call of beaneater (Debian's ruby-beaneater), and its job loop, against the server on DJQS_PORT.
require 'beaneater'

def check(what, seen, expected)
  raise "#{what}: #{seen.inspect}, not #{expected.inspect}" unless seen == expected
end

def raises(error)
  yield
rescue error
  nil
else
  raise "no #{error}"
end

client = Beaneater.new("127.0.0.1:#{ENV['DJQS_PORT']}")
mail = client.tubes['mail']
check 'used', client.tubes.used.name, 'default'
check 'watched', client.tubes.watched.map(&:name), ['default']

first = mail.put('first', pri: 5, ttr: 100)
check 'put', first[:status], 'INSERTED'
mail.put('second', pri: 4)
mail.put('third', delay: 100)
check 'used', client.tubes.used.name, 'mail'
check 'all', client.tubes.all.map(&:name), %w[default mail]
check 'each', client.tubes.map(&:name), %w[default mail]
check 'peek', %i[ready delayed buried].map { |state| mail.peek(state)&.body }, ['second', 'third', nil]

# Tubes and their watch list.
client.tubes.watch('mail', 'other')
check 'watched', client.tubes.watched.map(&:name), %w[default mail other]
client.tubes.ignore('other')
client.tubes.watch!('mail')
check 'watched', client.tubes.watched.map(&:name), %w[mail]
raises(Beaneater::NotIgnoredError) { client.tubes.ignore('mail') }

# Jobs.
job = client.tubes.reserve(5)
check 'reserve', [job.id, job.body, job.reserved?, job.exists?], ['2', 'second', true, true]
check 'of a job', [job.tube, job.ttr, job.pri, job.delay], ['mail', 120, 4, 0]
job.touch
job.release(pri: 9)
job = mail.reserve(5)
check 'reserve', job.body, 'first'
job.release
job = mail.reserve
check 'released with its priority', job.pri, 5
job.bury
check 'buried', [job.stats.state, job.stats.buries, job.stats.reserves], ['buried', 1, 2]
check 'kick', mail.kick(3)[:id], '1'
job = client.jobs.find(1)
check 'find', [job.body, job.reserved?], ['first', false]
raises(Beaneater::JobNotReserved) { job.bury }
client.jobs.find(3).kick
check 'peek', [client.jobs.peek(3).stats.state, client.jobs[99]], ['ready', nil]
raises(Beaneater::NotFoundError) { client.jobs.find(3).kick }
job.delete
raises(Beaneater::NotFoundError) { job.delete }
check 'exists', job.exists?, false

# Counters, a pause, errors.
check 'stats', [client.stats.total_jobs, client.stats.current_jobs_ready], [3, 2]
check 'keys', client.stats.keys.length, 51
check 'stats', client.stats[:current_tubes], 2
check 'tube', [mail.stats.name, mail.stats.current_jobs_ready, mail.stats.current_watching], ['mail', 2, 1]
mail.pause(60)
raises(Beaneater::TimedOutError) { mail.reserve(0) }
mail.pause(0)
raises(Beaneater::JobTooBigError) { mail.put('x' * 65_536) }
raises(Beaneater::NotFoundError) { client.tubes['nothing'].stats }
raises(Beaneater::UnknownCommandError) { client.connection.transmit('nonsense') }
soon = mail.put('soon', pri: 0, ttr: 1)
check 'soon', mail.reserve(5).id, soon[:id]
mail.pause(60)
raises(Beaneater::DeadlineSoonError) { mail.reserve(5) }
mail.pause(0)
client.jobs.find(soon[:id]).delete
mail.clear
check 'cleared', mail.peek(:ready), nil

# The loop that works on jobs: one that is done, one that is tried again, one that is buried.
seen = []
client.jobs.register('work', retry_on: [IOError]) do |found|
  seen << found.body
  raise IOError, 'again' if found.body == 'again' && seen.count('again') < 3
  raise 'never' if found.body == 'never'
  raise Beaneater::AbortProcessingError if found.body == 'stop'
end
%w[done again never].each { |body| client.tubes['work'].put(body, pri: 1) }
client.tubes['work'].put('stop', pri: 9, delay: 4)
client.jobs.process!(release_delay: 1, reserve_timeout: 10)
check 'processed', seen, %w[done again never again again stop]
check 'buried', client.tubes['work'].peek(:buried).body, 'never'
client.close
puts 'beaneater: every call, and its job loop'
