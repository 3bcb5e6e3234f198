# What Rack reads: `puma -b tcp://127.0.0.1:PORT rack.ru`.
require 'json'
require 'rack'

def written(value)
  case value
  when nil, true, false then value
  when Numeric then { n: value.to_s }
  when String then { s: value.b.unpack1('H*') }
  when Array then value.map { |one| written(one) }
  when Hash then { o: value.map { |key, one| [key.to_s.b.unpack1('H*'), written(one)] } }
  else { s: value.class.to_s.unpack1('H*') }
  end
end

READINGS = {
  '/form' => ->(request) { request.POST },
  '/params' => ->(request) { request.params },
  '/any-json' => ->(request) { JSON.parse(request.body.read) },
  '/query' => ->(request) { request.GET }
}.freeze

run lambda { |env|
  request = Rack::Request.new(env)
  begin
    read = READINGS.fetch(request.path_info).call(request)
    [200, { 'content-type' => 'application/json' }, [JSON.generate({ read: written(read) })]]
  rescue StandardError => e
    [400, { 'content-type' => 'application/json' }, [JSON.generate({ refused: e.class.to_s })]]
  end
}
